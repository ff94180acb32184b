"""The client: documented requests, parsed responses, errors of the tree, retries."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from urllib.parse import parse_qsl, urlsplit

import pytest
from test_rate_limiter import VirtualClock

from prefect_wix.client.auth import ApiKeyAuth, check_base_url
from prefect_wix.client.client import BASE_URL, WixClient
from prefect_wix.client.models import JobStatus, SessionsQuery
from prefect_wix.client.retry import backoff
from prefect_wix.errors import (
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    RateLimitError,
    RequestError,
    RequestNotSentError,
    ResponseLostError,
    ServerError,
    StatusError,
    Violation,
    WixError,
)
from prefect_wix.sandbox import Fault, Rules, World, running

KEY, SITE = "IST.secret-canary", "site-1"
QUERY = SessionsQuery(start_date="2024-03-01", end_date="2024-03-03", device_type="MOBILE")
EMPTY = b'{"message":"","details":{}}'
LIST = "POST /analytics/v1/sessions/list/async"
RESULT = "GET /analytics/v1/sessions/list/result"
RECORDED = "POST /analytics/v1/sessions/session-recorded"
DELETED = "POST /analytics/v1/sessions/recordings-deleted"
PROPERTIES = "GET /site-properties/v4/properties"
COUNTS = "GET /analytics/v2/site-analytics/data"

CALLS = {
    LIST: lambda client: client.list_sessions_async(QUERY),
    RESULT: lambda client: client.get_list_sessions_job_result("job", limit=7, offset=3),
    RECORDED: lambda client: client.mark_session_as_recorded("a"),
    PROPERTIES: lambda client: client.get_site_timezone(),
    COUNTS: lambda client: client.get_total_sessions(date(2024, 3, 1), date(2024, 3, 2), "UTC"),
}
READS = [RESULT, PROPERTIES, COUNTS]


@dataclass
class ReceivedRequest:
    """A request that `RawWix` received."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: object


class RawWix:
    """A server that returns the given responses in order, and repeats the last one.

    A response is the bytes to send before the connection is closed, or an async function that
    returns them for a request.
    """

    def __init__(self, *responses):
        self.responses = list(responses)
        self.requests = []

    async def serve(self, reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            method, target, _ = head[0].split(" ")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            raw = dict(line.split(": ", 1) for line in head[1:] if line)
            headers |= {"authorization": raw.get("Authorization", "")}
            content = await reader.readexactly(int(headers.get("content-length", 0)))
            url = urlsplit(target)
            self.requests.append(
                ReceivedRequest(
                    method,
                    url.path,
                    dict(parse_qsl(url.query, keep_blank_values=True)),
                    headers,
                    json.loads(content) if content else None,
                )
            )
            response = self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]
            if callable(response):
                response = await response(self.requests[-1])
            writer.write(response)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @property
    def endpoints(self):
        return [f"{request.method} {request.path}" for request in self.requests]

    @asynccontextmanager
    async def running(self):
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        # `async with server` would wait for open connections from Python 3.12 on.
        with closing(server):
            yield self


def raw_response(status=200, body=b"{}", **headers):
    """The bytes of a complete HTTP response."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content-length": str(len(content)), "x-wix-request-id": "req-1"}
    fields |= {"content-type": "application/json", "connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode("latin-1") + content


JOB = raw_response(body={"jobId": "j"})


def rate_limited(retry_after):
    return raw_response(429, EMPTY, retry_after=retry_after)


def raw_client(url, *, clock=None, auth=None, **options):
    return WixClient(
        auth or ApiKeyAuth(KEY, SITE), base_url=url, clock=clock or VirtualClock(), **options
    )


@asynccontextmanager
async def serving(*responses, **options):
    """A `RawWix` with these responses, and a client of it."""
    async with RawWix(*responses).running() as wix, raw_client(wix.url, **options) as client:
        yield wix, client


@pytest.fixture(scope="module")
def running_sandbox():
    world = World.generate(5, sessions=300, start=datetime(2024, 3, 1).date(), days=3)  # noqa: DTZ001
    with running(world) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running_sandbox):
    running_sandbox.reset_counts()
    running_sandbox.recorded.clear()
    running_sandbox.deleted.clear()
    yield running_sandbox
    running_sandbox.faults = ()


def sandbox_client(sandbox, **options):
    auth = ApiKeyAuth(sandbox.api_key, sandbox.site_id)
    return WixClient(auth, base_url=sandbox.url, clock=VirtualClock(), **options)


# --- requests ----------------------------------------------------------------------------------


async def test_a_query_is_submitted_as_documented():
    async with serving(raw_response(body={"jobId": "a391a44f"})) as (wix, client):
        assert await client.list_sessions_async(QUERY) == "a391a44f"
    (request,) = wix.requests
    assert wix.endpoints == [LIST]
    assert request.params == {}
    assert request.body == QUERY.to_wire()


async def test_a_page_is_fetched_with_all_three_parameters():
    body = {"result": {"jobStatus": "FINISHED", "total": 2, "sessionIds": ["a", "b"]}}
    async with serving(raw_response(body=body)) as (wix, client):
        page = await client.get_list_sessions_job_result("job/ 1&", limit=7, offset=3)
        await client.get_list_sessions_job_result("job")
    assert wix.endpoints == [RESULT, RESULT]
    assert wix.requests[0].params == {"jobId": "job/ 1&", "limit": "7", "offset": "3"}
    assert wix.requests[1].params == {"jobId": "job", "limit": "1000", "offset": "0"}
    assert wix.requests[0].body is None
    assert (page.status, page.total, page.session_ids) == (JobStatus.FINISHED, 2, ("a", "b"))
    assert page.request_id == "req-1"


async def test_marks_and_the_time_zone_are_requested_as_documented():
    async with serving(raw_response()) as (wix, client):
        await client.mark_session_as_recorded("a")
        await client.mark_recordings_as_deleted(["a", "b"])
        await client.get_site_timezone()
    assert wix.endpoints == [RECORDED, DELETED, PROPERTIES]
    bodies = [request.body for request in wix.requests]
    assert bodies == [{"sessionId": "a"}, {"sessionIds": ["a", "b"]}, None]
    assert wix.requests[2].params == {"fields.paths": "timeZone"}


async def test_counts_are_requested_as_documented():
    """The dates are half-open, and the time zone parameter is `timeZone`, not `timezone`."""
    values = [{"date": "2024-03-01", "value": 3}, {"date": "2024-03-02", "value": "0"}]
    body = {"data": [{"type": "OTHER", "values": values}, {"type": "TOTAL_SESSIONS"}]}
    full = {"data": [*body["data"], {"type": "TOTAL_SESSIONS", "values": values, "total": 3}]}
    days = date(2024, 3, 1), date(2024, 3, 3)
    async with serving(*(raw_response(body=each) for each in (body, full, {}))) as (wix, client):
        assert await client.get_total_sessions(*days, "Asia/Tokyo") == {}
        counts = await client.get_total_sessions(*days, "Asia/Tokyo")
        assert await client.get_total_sessions(*days, "Asia/Tokyo") == {}
    assert counts == {date(2024, 3, 1): 3, date(2024, 3, 2): 0}
    assert wix.endpoints[0] == COUNTS
    assert wix.requests[0].params == {
        "measurementTypes": "TOTAL_SESSIONS",
        "dateRange.startDate": "2024-03-01",
        "dateRange.endDate": "2024-03-03",
        "timeZone": "Asia/Tokyo",
    }


@pytest.mark.parametrize(
    "value", [{"value": 3}, {"date": "soon", "value": 3}, {"date": "2024-03-01"}]
)
async def test_a_count_without_a_valid_day_and_number_is_an_invalid_response(value):
    body = {"data": [{"type": "TOTAL_SESSIONS", "values": [value]}]}
    async with serving(raw_response(body=body), retries=0) as (_, client):
        with pytest.raises(InvalidResponseError, match="Wix returned a count"):
            await client.get_total_sessions(date(2024, 3, 1), date(2024, 3, 2), "UTC")


async def test_the_sandbox_counts_every_session_that_it_lists():
    """The counts of three days add up to all sessions; days past the retention are refused."""
    days = date(2024, 3, 1), date(2024, 3, 4)
    world = World.generate(5, sessions=300, start=days[0], days=3, timezone="UTC")
    with running(world, now=lambda: now) as sandbox:
        async with sandbox_client(sandbox) as client:
            now = datetime(2024, 5, 1, tzinfo=UTC)
            counts = await client.get_total_sessions(*days, "UTC")
            now = datetime(2024, 5, 2, tzinfo=UTC)
            with pytest.raises(BadRequestError, match="Do not have data for this start date"):
                await client.get_total_sessions(*days, "UTC")
    assert (len(counts), sum(counts.values())) == (3, 300)


@pytest.mark.parametrize("call", CALLS)
async def test_every_request_has_the_key_and_the_site_and_a_json_body_its_content_type(call):
    async with serving(JOB) as (wix, client):
        await CALLS[call](client)
    headers = wix.requests[0].headers
    assert wix.endpoints == [call]
    assert headers["authorization"] == KEY
    assert headers["wix-site-id"] == SITE
    assert "wix-account-id" not in headers
    if wix.requests[0].body is not None:
        assert headers["content-type"] == "application/json"


async def test_a_base_url_may_have_a_path_and_a_trailing_slash():
    async with RawWix(raw_response()).running() as wix, raw_client(f"{wix.url}/proxy/") as client:
        await client.mark_session_as_recorded("a")
    assert wix.requests[0].path == "/proxy/analytics/v1/sessions/session-recorded"


# --- responses ---------------------------------------------------------------------------------


async def test_the_client_works_with_every_endpoint_of_the_sandbox(sandbox):
    """Submit, fetch a page, mark as recorded, mark as deleted, and read the site's time zone."""
    async with sandbox_client(sandbox) as client:
        job_id = await client.list_sessions_async(QUERY)
        page = await client.get_list_sessions_job_result(job_id)
        assert set(page.session_ids) == sandbox.answer(QUERY.to_wire())
        assert page.total == len(page.session_ids) > 0
        assert page.request_id
        first, *others = page.session_ids
        await client.mark_session_as_recorded(first)
        await client.mark_recordings_as_deleted(others[:5])
        assert await client.get_site_timezone() == "Asia/Jerusalem"
    assert sandbox.recorded == {first}
    assert sandbox.deleted == set(others[:5])
    assert sandbox.count() == 5


@pytest.mark.parametrize(
    "body", [{}, {"properties": {}}, {"properties": None}, {"properties": {"timeZone": ""}}]
)
async def test_a_site_may_have_no_time_zone(body):
    async with serving(raw_response(body=body)) as (_, client):
        assert await client.get_site_timezone() is None


async def test_a_sandbox_site_may_have_no_time_zone():
    with running(World(), rules=Rules(site_timezone_known=False)) as sandbox:
        async with sandbox_client(sandbox) as client:
            assert await client.get_site_timezone() is None


@pytest.mark.parametrize(
    ("result", "total", "ids", "status"),
    [
        ({}, None, (), JobStatus.UNKNOWN),
        ({"jobStatus": "IN_PROGRESS"}, None, (), JobStatus.IN_PROGRESS),
        ({"jobStatus": "ERROR", "total": None}, None, (), JobStatus.ERROR),
        ({"jobStatus": "FINISHED", "total": 0, "sessionIds": []}, 0, (), JobStatus.FINISHED),
        ({"jobStatus": "FINISHED", "sessionIds": None}, None, (), JobStatus.FINISHED),
        (
            {"jobStatus": "FINISHED", "total": "1", "sessionIds": ["é"]},
            1,
            ("é",),
            JobStatus.FINISHED,
        ),
        ({"jobStatus": "FINISHED", "total": -1}, None, (), JobStatus.FINISHED),
        ({"jobStatus": "FINISHED", "total": True}, None, (), JobStatus.FINISHED),
        ({"jobStatus": "FINISHED", "total": 1.5}, None, (), JobStatus.FINISHED),
        ({"jobStatus": "FINISHED", "total": "9" * 5000}, None, (), JobStatus.FINISHED),
        ({"jobStatus": ["FINISHED"]}, None, (), JobStatus.UNKNOWN),
        (None, None, (), JobStatus.UNKNOWN),
        ([], None, (), JobStatus.UNKNOWN),
    ],
)
async def test_every_field_of_a_result_may_be_missing_or_malformed(result, total, ids, status):
    async with serving(raw_response(body={"result": result})) as (_, client):
        page = await client.get_list_sessions_job_result("job")
    assert (page.status, page.total, page.session_ids) == (status, total, ids)


@pytest.mark.parametrize(
    "ids", [[None], ["a", 1], [""], ["a\n"], ["\0"], ["\ud800"], [["a"]], {"a": 1}, "abc", [True]]
)
async def test_an_invalid_session_id_makes_the_whole_page_invalid(ids):
    """An invalid ID is neither converted nor dropped."""
    body = {"result": {"jobStatus": "FINISHED", "total": 1, "sessionIds": ids}}
    async with serving(raw_response(body=body)) as (wix, client):
        with pytest.raises(InvalidResponseError, match="returned an invalid session ID"):
            await client.get_list_sessions_job_result("job")
    assert len(wix.requests) <= 6


INVALID_BODIES = {
    "HTML": (b"<html>Oops</html>", "text/html"),
    "cut off": (b'{"jobId": "a', "application/json"),
    "empty": (b"", "application/json"),
    "array": (b'["a"]', "application/json"),
    "null": (b"null", "application/json"),
    "string": (b'"a"', "application/json"),
    "nested too deeply": (b'{"a":' * 100_000, "application/json"),
}
EMPTY_MARKS = {(RECORDED, "empty"), (DELETED, "empty")}
"""A mark without a body is done."""


@pytest.mark.parametrize(
    ("call", "body"),
    [(call, body) for call in CALLS for body in INVALID_BODIES if (call, body) not in EMPTY_MARKS],
)
async def test_a_response_that_is_not_a_json_object_is_invalid(call, body):
    """A read is retried; a write is not, since it may have taken effect."""
    content, kind = INVALID_BODIES[body]
    async with serving(raw_response(body=content, content_type=kind)) as (wix, client):
        with pytest.raises(InvalidResponseError, match="not a JSON object") as caught:
            await CALLS[call](client)
    error = caught.value
    assert (error.endpoint, error.request_id) == (call, "req-1")
    assert "req-1" in str(error)
    assert call in str(error)
    assert error.may_have_taken_effect
    assert len(wix.requests) == (6 if call in READS else 1)


@pytest.mark.parametrize("job_id", [None, "", 5, ["a"], "a\nb", "\ud800"])
async def test_a_submit_without_a_valid_job_id_may_have_created_a_job(job_id):
    async with serving(raw_response(body={"jobId": job_id})) as (wix, client):
        with pytest.raises(InvalidResponseError, match="no job ID") as caught:
            await client.list_sessions_async(QUERY)
    assert caught.value.may_have_taken_effect
    assert len(wix.requests) == 1


@pytest.mark.parametrize("call", CALLS)
async def test_a_response_with_broken_compression_is_an_error_of_the_tree(call):
    broken = gzip.compress(b"{}" * 100)[:-20] + b"x" * 20
    async with serving(raw_response(body=broken, content_encoding="gzip")) as (wix, client):
        with pytest.raises((InvalidResponseError, ResponseLostError)) as caught:
            await CALLS[call](client)
    assert caught.value.endpoint == call
    assert len(wix.requests) == (6 if call in READS else 1)


STATUSES = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    428: PreconditionError,
    429: RateLimitError,
    500: ServerError,
    502: ServerError,
    503: ServerError,
    504: ServerError,
    599: ServerError,
    302: StatusError,
    418: StatusError,
}
APPLICATION_ERROR = {
    "message": "It went wrong",
    "details": {"applicationError": {"code": "WRONG", "description": "d", "data": {}}},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
async def test_every_error_status_has_its_own_error(call, status, kind):
    """The message has the endpoint, Wix's message and the request ID."""
    async with serving(raw_response(status, APPLICATION_ERROR), retries=0) as (_, client):
        with pytest.raises(StatusError) as caught:
            await CALLS[call](client)
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.endpoint, error.request_id) == (status, call, "req-1")
    assert (error.code, error.violations, error.retry_after) == ("WRONG", (), None)
    assert not error.empty
    for part in (f"{status} for {call}", "It went wrong", "(request ID req-1)"):
        assert part in str(error)


@pytest.mark.parametrize(
    ("body", "text", "empty"),
    [
        (EMPTY, "", True),
        (b"", "", True),
        (b"<html>Oops</html>", "a body that is not JSON", False),
        (b'{"message": "cut', "a body that is not JSON", False),
        (b"[]", "", True),
        (b'{"message": "Only this"}', "Only this", False),
        (b'{"details": {"applicationError": {"description": "Only that"}}}', "Only that", False),
        (b'{"message": null, "details": null}', "", True),
        (b'{"details": {"applicationError": 5, "validationError": []}}', "", False),
        (b"[" * 100_000, "a body that is not JSON", False),
    ],
)
async def test_an_error_body_of_another_shape_is_reported(body, text, empty):
    async with serving(raw_response(400, body)) as (_, client):
        with pytest.raises(BadRequestError) as caught:
            await client.list_sessions_async(QUERY)
    text = f": {text}" if text else ""
    assert str(caught.value).startswith(f"Wix returned 400 for {LIST}{text}. Correct the request.")
    assert caught.value.empty is empty


async def test_the_violations_of_a_request_are_listed(sandbox):
    async with sandbox_client(sandbox) as client:
        with pytest.raises(BadRequestError, match="limit: must be at most 1000; offset") as caught:
            await client.get_list_sessions_job_result("job", limit=1001, offset=-1)
    assert caught.value.violations == (
        Violation("limit", "must be at most 1000", "MAX", {"threshold": 1000}),
        Violation("offset", "must be at least 0", "MIN", {"threshold": 0}),
    )


@pytest.mark.parametrize(
    "violations",
    [[None], [{}], [{"field": None, "data": []}], [{"field": 5, "ruleName": None}], {}, 5],
)
async def test_violations_of_another_shape_are_tolerated(violations):
    body = {"message": "m", "details": {"validationError": {"fieldViolations": violations}}}
    async with serving(raw_response(400, body)) as (_, client):
        with pytest.raises(BadRequestError):
            await client.list_sessions_async(QUERY)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("Wed, 01 Jan 2020 00:00:00 GMT", 0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("\u00b2", None),
        ("01 Jan 2024 00:00:00 +99999999999999999", None),
        ("", None),
    ],
)
async def test_a_valid_retry_after_is_parsed_and_any_other_ignored(header, seconds):
    async with serving(rate_limited(header), retries=0) as (_, client):
        with pytest.raises(RateLimitError) as caught:
            await client.list_sessions_async(QUERY)
    assert caught.value.retry_after == seconds


async def test_retry_after_may_be_an_http_date():
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    async with serving(rate_limited(until), retries=0) as (_, client):
        with pytest.raises(RateLimitError) as caught:
            await client.list_sessions_async(QUERY)
    assert 35 < caught.value.retry_after <= 40


# --- retries -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [({}, 60, 75), ({"retry_after": "7"}, 7, 20), ({"retry_after": "90"}, 90, 110)],
)
@pytest.mark.parametrize("call", CALLS)
async def test_a_429_is_retried_after_its_retry_after_or_a_minute(call, headers, least, most):
    clock = VirtualClock()
    responses = [raw_response(429, EMPTY, **headers), JOB]
    async with serving(*responses, clock=clock) as (wix, client):
        await CALLS[call](client)
        assert least <= clock.now() <= most
    assert len(wix.requests) == 2


@pytest.mark.parametrize("call", CALLS)
async def test_a_503_is_retried_after_its_retry_after(call):
    clock = VirtualClock()
    responses = [raw_response(503, EMPTY, retry_after="20"), JOB]
    async with serving(*responses, clock=clock) as (_, client):
        await CALLS[call](client)
    assert 20 <= clock.now() <= 21


async def test_a_429_pauses_all_clients_of_the_site():
    clock = VirtualClock()
    responses = [raw_response(429, EMPTY), JOB]
    async with (
        serving(*responses, clock=clock, retries=0) as (wix, one),
        raw_client(wix.url, clock=clock) as two,
    ):
        with pytest.raises(RateLimitError):
            await one.list_sessions_async(QUERY)
        assert clock.now() == 0
        await two.list_sessions_async(QUERY)
        assert clock.now() >= 60


@pytest.mark.parametrize("header", ["9" * 400, "86400000", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_a_retry_after_is_limited_to_an_hour(header):
    clock = VirtualClock()
    async with serving(rate_limited(header), JOB, clock=clock) as (_, client):
        await client.list_sessions_async(QUERY)
    assert clock.now() <= 3600


# Failure -> response, requests of a read, requests of a write, error.
FAILURES = {
    "503": (raw_response(503, EMPTY), 6, 6, ServerError),
    "500": (raw_response(500, EMPTY), 6, 1, ServerError),
    "502 in HTML": (raw_response(502, b"<html>", content_type="text/html"), 6, 1, ServerError),
    "504": (raw_response(504, EMPTY), 1, 1, ServerError),
    "429": (raw_response(429, EMPTY), 6, 6, RateLimitError),
    "empty 403": (raw_response(403, EMPTY), 3, 1, PermissionDeniedError),
    "403 without a body": (raw_response(403, b""), 3, 1, PermissionDeniedError),
    "403 with a message": (raw_response(403, APPLICATION_ERROR), 1, 1, PermissionDeniedError),
    "400": (raw_response(400, APPLICATION_ERROR), 1, 1, BadRequestError),
    "401": (raw_response(401, APPLICATION_ERROR), 1, 1, AuthenticationError),
    "404": (raw_response(404, APPLICATION_ERROR), 1, 1, NotFoundError),
    "409": (raw_response(409, APPLICATION_ERROR), 1, 1, ConflictError),
    "428": (raw_response(428, APPLICATION_ERROR), 1, 1, PreconditionError),
    "302": (raw_response(302, EMPTY, location="http://127.0.0.1:1/"), 1, 1, StatusError),
    "closed without a response": (b"", 6, 1, ResponseLostError),
    "half a head": (b"HTTP/1.1 200 OK\r\nconte", 6, 1, ResponseLostError),
    "half a body": (raw_response(200, b"{}", content_length="99"), 6, 1, ResponseLostError),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", 6, 1, ResponseLostError),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("response", "reads", "writes", "kind"), FAILURES.values(), ids=FAILURES)
async def test_a_request_is_retried_only_where_safe_and_useful(call, response, reads, writes, kind):
    """A write is retried only if it had no effect; the last error is raised."""
    async with serving(response) as (wix, client):
        with pytest.raises(WixError) as caught:
            await CALLS[call](client)
    assert type(caught.value) is kind
    assert caught.value.endpoint == call
    assert wix.endpoints == [call] * (reads if call in READS else writes)


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_the_caller_sets_the_number_of_retries(times):
    async with serving(raw_response(503, EMPTY), retries=times) as (wix, client):
        with pytest.raises(ServerError):
            await client.list_sessions_async(QUERY)
    assert len(wix.requests) == 1 + times


def test_the_waits_between_retries_double_with_jitter():
    for retries, expected in enumerate((0.5, 1, 2, 4, 8, 16, 30, 30)):
        measured = [backoff(retries) for _ in range(3)]
        assert all(0.8 * expected <= wait <= 1.2 * expected for wait in measured)
        assert len(set(measured)) == 3


def test_the_wait_after_a_thousand_retries_is_no_longer():
    assert backoff(5000) <= 36


async def test_a_retry_waits_for_its_backoff_and_for_the_pause_of_the_site():
    clock, arrived = VirtualClock(), []

    async def record(_):
        arrived.append(clock.now())
        return raw_response(503, EMPTY)

    async with serving(record, clock=clock, retries=8) as (_, client):
        with pytest.raises(ServerError):
            await client.list_sessions_async(QUERY)
    waits = [two - one for one, two in pairwise(arrived)]
    # One request a second, and growing pauses from the second failure on.
    backoffs, pauses = (0.5, 1, 2, 4, 8, 16, 30, 30), (1, 1, 2, 4, 8, 16, 32, 64)
    for wait, one, pause in zip(waits, backoffs, pauses, strict=True):
        assert max(0.8 * one, pause) - 0.01 < wait < max(1.2 * one, pause) + 0.01


@pytest.mark.parametrize("call", CALLS)
async def test_a_request_succeeds_after_one_503(call):
    async with serving(raw_response(503, EMPTY), JOB) as (wix, client):
        await CALLS[call](client)
    assert wix.endpoints == [call, call]


@pytest.mark.parametrize("call", CALLS)
async def test_a_refused_connection_is_retried_as_a_request_that_was_not_sent(call):
    """A retry is safe for a write too."""
    async with RawWix(raw_response()).running() as wix:
        url = wix.url
    clock = VirtualClock()
    async with raw_client(url, clock=clock) as client:
        with pytest.raises(RequestNotSentError, match="could not be sent: ConnectError") as caught:
            await CALLS[call](client)
    assert caught.value.safe_to_resend
    assert not caught.value.may_have_taken_effect
    assert clock.now() > 10, "five retries with backoff wait more than 10 s"


@pytest.mark.parametrize("call", CALLS)
async def test_a_response_that_exceeds_the_timeout_is_lost(call):
    async def never(_):
        await asyncio.sleep(30)

    options = {"timeout_seconds": 0.3, "retries": 1}
    async with serving(never, **options) as (wix, client):
        with pytest.raises(
            ResponseLostError, match=r"timeout after 0.3 s\. The request may have taken effect"
        ) as caught:
            await CALLS[call](client)
    assert caught.value.may_have_taken_effect
    assert len(wix.requests) == (2 if call in READS else 1)


@pytest.mark.parametrize("kind", ["dropped_before", "dropped_after", "cut_body"])
async def test_a_submit_is_not_retried_after_its_response_was_lost(sandbox, kind):
    """The job may exist, so that the caller has to decide."""
    sandbox.faults = [Fault(kind)]
    before = len(sandbox.jobs)
    async with sandbox_client(sandbox) as client:
        with pytest.raises(ResponseLostError):
            await client.list_sessions_async(QUERY)
    assert sandbox.count("list") == 1
    assert len(sandbox.jobs) - before == (0 if kind == "dropped_before" else 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", CALLS)
async def test_a_redirect_is_never_followed(status, call):
    """The key is not sent to another host."""
    async with RawWix(raw_response()).running() as other:
        moved = raw_response(status, b"", location=f"{other.url}/analytics")
        async with serving(moved) as (wix, client):
            with pytest.raises(StatusError, match=f"Wix returned {status}"):
                await CALLS[call](client)
    assert other.requests == []
    assert len(wix.requests) == 1


# --- marks -------------------------------------------------------------------------------------


def ids(number):
    return [f"id-{n}" for n in range(number)]


@pytest.mark.parametrize("given", [[], ids(101), "abc"])
async def test_a_mark_request_has_1_to_100_ids(sandbox, given):
    """Nothing is sent for another number, nor for a single string."""
    async with sandbox_client(sandbox) as client:
        with pytest.raises(ValueError, match="list of 1 to 100 session IDs"):
            await client.mark_recordings_as_deleted(given)
        assert sandbox.count() == 0
        await client.mark_recordings_as_deleted(ids(100))
    assert sandbox.deleted == set(ids(100))


@pytest.mark.parametrize(
    ("response", "is_unknown", "calls"),
    [
        (b"", True, 1),
        (raw_response(body=b"<html>"), True, 1),
        (raw_response(500, EMPTY), True, 1),
        (raw_response(504, EMPTY), True, 1),
        (raw_response(503, EMPTY), False, 6),
        (raw_response(429, EMPTY), False, 6),
        (raw_response(404, APPLICATION_ERROR), False, 1),
        (raw_response(409, APPLICATION_ERROR), False, 1),
    ],
)
async def test_a_mark_whose_response_is_lost_is_not_retried(response, is_unknown, calls):
    """Only a mark that had no effect is retried."""
    async with serving(response) as (wix, client):
        with pytest.raises(RequestError) as caught:
            await client.mark_recordings_as_deleted(["a"])
    assert caught.value.may_have_taken_effect is is_unknown
    assert len(wix.requests) == calls


async def test_a_mark_without_a_connection_is_not_sent():
    async with RawWix(raw_response()).running() as wix:
        url = wix.url
    async with raw_client(url) as client:
        with pytest.raises(RequestNotSentError):
            await client.mark_recordings_as_deleted(["a"])


# --- base URL ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        (BASE_URL, "https://www.wixapis.com"),
        ("https://www.wixapis.com/", "https://www.wixapis.com"),
        ("http://127.0.0.1:8765", "http://127.0.0.1:8765"),
        ("http://localhost:8765/", "http://localhost:8765"),
        ("http://[::1]:8765", "http://[::1]:8765"),
        ("https://wix.internal/proxy", "https://wix.internal/proxy"),
    ],
)
def test_a_base_url_is_https_or_on_this_machine(url, clean):
    assert check_base_url(url) == clean


@pytest.mark.parametrize(
    "url",
    [
        "",
        "www.wixapis.com",
        "//www.wixapis.com",
        "ftp://www.wixapis.com",
        "file:///etc/passwd",
        "http://www.wixapis.com",
        "http://0.0.0.0",
        "http://localhost.evil.test",
        "http://127.0.0.1.evil.test",
        "http://evil.test#@127.0.0.1",
        "http://evil.test?@127.0.0.1",
    ],
)
def test_a_base_url_that_would_send_the_key_unencrypted_is_rejected(url):
    with pytest.raises(ValueError, match="base_url must be https, or http on this machine"):
        check_base_url(url)


@pytest.mark.parametrize(
    "url", ["https://", "https:///x", "https://h\n", "https://[::1", "https://h:a"]
)
def test_a_malformed_base_url_is_rejected(url):
    with pytest.raises(ValueError, match="base_url"):
        check_base_url(url)


@pytest.mark.parametrize(
    "url", ["https://me:secret@h.test", "https://secret@h.test", "http://a:secret@127.0.0.1"]
)
def test_user_info_in_the_base_url_is_rejected_and_not_in_the_message(url):
    with pytest.raises(ValueError, match="must not contain a user name or password") as caught:
        check_base_url(url)
    assert "secret" not in str(caught.value)


async def test_concurrent_requests_get_their_own_responses(sandbox):
    async with sandbox_client(sandbox) as client:
        jobs = await asyncio.gather(*(client.list_sessions_async(QUERY) for _ in range(30)))
        pages = await asyncio.gather(
            *(
                client.get_list_sessions_job_result(job, limit=10, offset=n)
                for n, job in enumerate(jobs)
            )
        )
    assert len(set(jobs)) == 30
    assert Counter(len(page.session_ids) for page in pages) == {10: 30}

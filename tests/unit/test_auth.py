"""Authentication with API keys and app tokens; no secret in errors, logs, blocks or pickles."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import traceback
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import cloudpickle
import httpx
import pytest
from pydantic import ValidationError
from test_client import (
    CALLS,
    EMPTY,
    FAILURES,
    INVALID_BODIES,
    JOB,
    LIST,
    QUERY,
    RawWix,
    raw_client,
    raw_response,
    serving,
)
from test_rate_limiter import VirtualClock

from prefect_wix.blocks.credentials import WixAppCredentials, WixCredentials
from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.client import auth as auth_module
from prefect_wix.client.auth import ApiKeyAuth, AppAuth
from prefect_wix.client.client import WixClient
from prefect_wix.errors import (
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestError,
    RequestNotSentError,
    ResponseLostError,
    WixError,
)
from prefect_wix.jobs.listing import Listing
from prefect_wix.sandbox import Fault, World, running

CANARY = "CANARY-4f1c"
TOKEN = "POST /oauth2/token"
WORLD = World.generate(5, sessions=50, start=date(2024, 3, 1), days=3)


class Now:
    """The clock of the sandbox, which a test advances."""

    def __init__(self):
        self.at = datetime(2024, 6, 1, tzinfo=UTC)

    def __call__(self):
        return self.at


@pytest.fixture
def now():
    return Now()


@pytest.fixture
def sandbox(now):
    with running(WORLD, now=now) as sandbox:
        yield sandbox


def app_client(sandbox, *, secret=None, **options):
    auth = AppAuth(
        sandbox.app_id, secret or sandbox.app_secret, sandbox.instance_id, base_url=sandbox.url
    )
    return WixClient(auth, base_url=sandbox.url, clock=VirtualClock(), **options)


@asynccontextmanager
async def app_serving(token_responses, *api_responses, secret=CANARY, **options):
    """A `RawWix` with responses for the token endpoint and for the API, and a client of it."""
    tokens, api = list(token_responses), list(api_responses)

    async def route(request):
        queue = tokens if request.path == "/oauth2/token" else api
        response = queue.pop(0) if len(queue) > 1 else queue[0]
        return await response(request) if callable(response) else response

    async with RawWix(route).running() as wix:
        auth = AppAuth("app-1", secret, "instance-1", base_url=wix.url)
        async with raw_client(wix.url, auth=auth, **options) as client:
            yield wix, client


def token(value="token-1", seconds=14_400):
    """A response of the token endpoint."""
    return raw_response(body={"access_token": value, "token_type": "Bearer", "expires_in": seconds})


UNAUTHORIZED = raw_response(401, {"message": "expired", "details": {}})


# --- an API key --------------------------------------------------------------------------------


async def test_an_api_key_is_sent_without_scheme_and_with_its_site():
    """The request has no "Bearer" and no account ID: Wix rejects a site with an account."""
    auth = ApiKeyAuth(f" {CANARY}\n", " site-9 ")
    async with serving(JOB, auth=auth) as (wix, client):
        await client.list_sessions_async(QUERY)
        assert client.site_id == "site-9"
    headers = wix.requests[0].headers
    assert (headers["authorization"], headers["wix-site-id"]) == (CANARY, "site-9")
    assert "wix-account-id" not in headers


async def test_an_invalid_key_is_not_retried(sandbox):
    client = WixClient(ApiKeyAuth("wrong", sandbox.site_id), base_url=sandbox.url)
    async with client:
        with pytest.raises(AuthenticationError, match="Put a valid one in"):
            await client.get_site_timezone()
    assert sandbox.count() == 1


async def test_a_key_of_another_site_is_a_missing_permission(sandbox):
    auth = ApiKeyAuth(sandbox.api_key, "some-other-site")
    async with WixClient(auth, base_url=sandbox.url, clock=VirtualClock()) as client:
        with pytest.raises(PermissionDeniedError, match="the site ID is wrong or missing"):
            await client.get_site_timezone()
    assert sandbox.count() == 3


INVALID_HEADERS = [
    "",
    "  ",
    "\n",
    f"{CANARY}\nx: y",
    f"{CANARY}\r\n\r\n",
    f"{CANARY}é",
    f"{CANARY}\0",
    f"“{CANARY}”",
    f"a\t{CANARY}",
]


@pytest.mark.parametrize("text", INVALID_HEADERS[:4] + INVALID_HEADERS[5:])
def test_an_invalid_header_value_is_rejected_and_not_in_the_message(text):
    for make in (lambda: ApiKeyAuth(text, "site"), lambda: ApiKeyAuth("key", text)):
        with pytest.raises(ValueError, match="Copy it from Wix again") as caught:
            make()
        assert CANARY not in str(caught.value)


# --- an app's token ----------------------------------------------------------------------------


async def test_an_app_exchanges_its_secret_for_a_token_and_sends_it_without_scheme():
    """As documented: the credentials as JSON, then the token alone, without a site ID."""
    async with app_serving([token()], JOB) as (wix, client):
        await client.list_sessions_async(QUERY)
        assert client.site_id == "instance-1"
    assert wix.endpoints == [TOKEN, LIST]
    assert wix.requests[0].body == {
        "grant_type": "client_credentials",
        "client_id": "app-1",
        "client_secret": CANARY,
        "instance_id": "instance-1",
    }
    assert wix.requests[0].headers["authorization"] == ""
    assert wix.requests[0].headers["content-type"] == "application/json"
    assert wix.requests[1].headers["authorization"] == "token-1"
    assert {"wix-site-id", "wix-account-id"}.isdisjoint(wix.requests[1].headers)


async def test_fifty_concurrent_requests_fetch_one_token(sandbox):
    async with app_client(sandbox) as client:
        await asyncio.gather(*(client.get_site_timezone() for _ in range(50)))
    assert (sandbox.tokens_minted, sandbox.count("token")) == (1, 1)
    assert sandbox.count("properties") == 50


async def test_fifty_requests_that_find_the_token_expired_renew_it_once(sandbox, now):
    async with app_client(sandbox) as client:
        await client.get_site_timezone()
        now.at += timedelta(hours=5)
        await asyncio.gather(*(client.get_site_timezone() for _ in range(50)))
    assert sandbox.tokens_minted == 2
    assert sum(request.status == 200 for request in sandbox.requests) == 53
    assert sandbox.count("properties") <= 101


async def test_an_expired_token_is_renewed_and_the_request_sent_again(sandbox, now):
    async with app_client(sandbox) as client:
        await client.list_sessions_async(QUERY)
        now.at += timedelta(hours=5)
        await client.list_sessions_async(QUERY)
    assert [(request.endpoint, request.status) for request in sandbox.requests] == [
        ("token", 200),
        ("list", 200),
        ("list", 401),
        ("token", 200),
        ("list", 200),
    ]


@pytest.mark.parametrize("call", CALLS)
async def test_a_second_401_is_an_error(call):
    """The token is renewed once and the request, even a write, sent again: a 401 has no effect."""
    async with app_serving([token("one"), token("two")], UNAUTHORIZED) as (wix, client):
        with pytest.raises(AuthenticationError) as caught:
            await CALLS[call](client)
    assert wix.endpoints == [TOKEN, call, TOKEN, call]
    assert [request.headers["authorization"] for request in wix.requests] == ["", "one", "", "two"]
    assert caught.value.endpoint == call


@pytest.mark.parametrize(
    ("lifetime", "renewed_after"),
    [
        (14_400, 13_800),
        (1_200, 600),
        (1_000, 500),
        (10, 5),
        (None, 13_800),
        ("soon", 13_800),
        (-5, 13_800),
    ],
)
async def test_a_token_is_renewed_ten_minutes_before_expiry(monkeypatch, lifetime, renewed_after):
    """A shorter token is renewed after half its lifetime; the default lifetime is four hours."""
    at = 1_000.0
    monkeypatch.setattr(auth_module, "time", SimpleNamespace(monotonic=lambda: at))
    async with app_serving([token("one", lifetime), token("two", lifetime)], JOB) as (wix, client):
        await client.list_sessions_async(QUERY)
        at += renewed_after - 1
        await client.list_sessions_async(QUERY)
        assert wix.endpoints.count(TOKEN) == 1
        at += 2
        await asyncio.gather(*(client.list_sessions_async(QUERY) for _ in range(10)))
    assert wix.endpoints.count(TOKEN) == 2
    assert wix.requests[-1].headers["authorization"] == "two"


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, {"error": "invalid_grant", "error_description": CANARY}, "400, invalid_grant"),
        (401, {"error": "invalid_client", "error_description": CANARY}, "401, invalid_client"),
        (403, EMPTY, "403"),
        (400, b"<html>", "400"),
        (400, b"[]", "400"),
        (400, {"error": {"a": 1}}, "400"),
        (400, b"[" * 100_000, "400"),
    ],
)
async def test_a_rejected_app_raises_an_error_that_says_what_to_check(status, body, reason):
    """The message has Wix's short code, and not its free text, which could contain the secret."""
    async with app_serving([raw_response(status, body)], JOB) as (wix, client):
        with pytest.raises(AuthenticationError, match="Check the app ID, the app secret") as caught:
            await client.list_sessions_async(QUERY)
    assert f"({reason})" in str(caught.value)
    assert CANARY not in str(caught.value)
    assert (caught.value.endpoint, caught.value.request_id) == (TOKEN, "req-1")
    assert wix.endpoints == [TOKEN]


async def test_the_sandbox_rejects_an_invalid_secret(sandbox):
    async with app_client(sandbox, secret="wrong") as client:
        with pytest.raises(AuthenticationError, match="invalid_client"):
            await client.get_site_timezone()
    assert sandbox.count() == 1


NO_TOKEN = {
    "503": (raw_response(503, EMPTY), RequestNotSentError),
    "429": (raw_response(429, EMPTY), RateLimitError),
    "404": (raw_response(404, EMPTY), NotFoundError),
    "HTML": (raw_response(200, b"<html>", content_type="text/html"), RequestNotSentError),
    "empty": (raw_response(200, b""), RequestNotSentError),
    "no token": (raw_response(200, {}), RequestNotSentError),
    "empty token": (token(""), RequestNotSentError),
    "number": (token(5), RequestNotSentError),
    "two lines": (token("a\r\nb: c"), RequestNotSentError),
    "trailing blank": (token("a "), RequestNotSentError),
    "not ASCII": (token("é"), RequestNotSentError),
}


@pytest.mark.parametrize(("response", "kind"), NO_TOKEN.values(), ids=NO_TOKEN)
async def test_an_error_without_a_token_names_the_token_endpoint(response, kind):
    async with app_serving([response], JOB, retries=0) as (wix, client):
        with pytest.raises(RequestError) as caught:
            await client.list_sessions_async(QUERY)
    assert type(caught.value) is kind
    assert caught.value.endpoint == TOKEN
    assert wix.endpoints == [TOKEN]


TOKEN_FAILURES = {
    "closed": b"",
    "cut": raw_response(200, b"{}", content_length="99"),
    "HTML": raw_response(200, b"<html>"),
    "500": raw_response(500, EMPTY),
    "504": raw_response(504, EMPTY),
}


@pytest.mark.parametrize("failure", TOKEN_FAILURES.values(), ids=TOKEN_FAILURES)
async def test_a_request_without_a_token_cannot_have_taken_effect(failure):
    """So a listing reports no possible orphan, and a mark does not become unknown."""
    async with app_serving([failure], JOB, retries=0) as (wix, client):
        with pytest.raises(RequestError) as caught:
            await client.list_sessions_async(QUERY)
        assert wix.endpoints == [TOKEN]
    assert not caught.value.may_have_taken_effect


@pytest.mark.parametrize("failure", TOKEN_FAILURES.values(), ids=TOKEN_FAILURES)
async def test_a_read_succeeds_after_one_failure_of_the_token_endpoint(failure):
    zone = raw_response(body={"properties": {"timeZone": "UTC"}})
    failures = [failure] * (1 if b" 504 " not in failure else 0)
    async with app_serving([*failures, token()], zone) as (_, client):
        assert await client.get_site_timezone() == "UTC"


async def test_nothing_is_sent_while_the_token_endpoint_is_unreachable():
    async with RawWix(JOB).running() as stopped:
        url = stopped.url
    async with RawWix(JOB).running() as wix:
        auth = AppAuth("app", CANARY, "instance", base_url=url)
        async with raw_client(wix.url, auth=auth, retries=0) as client:
            with pytest.raises(RequestNotSentError):
                await client.list_sessions_async(QUERY)
    assert wix.requests == []


@pytest.mark.parametrize("wait", ["fetching", "waiting", "renewing"])
async def test_a_cancelled_request_does_not_block_the_others(wait):
    """The cancelled request fetches the token, waits for another's fetch, or renews the token."""
    token_requested, may_respond = asyncio.Event(), asyncio.Event()

    async def slowly(_):
        token_requested.set()
        await may_respond.wait()
        return token("late")

    tokens = [token("first"), slowly, token("next")] if wait == "renewing" else [slowly, token()]

    async def api(request):
        return UNAUTHORIZED if request.headers["authorization"] == "first" else JOB

    async with app_serving(tokens, api) as (_, client):
        calls = [asyncio.create_task(client.list_sessions_async(QUERY)) for _ in range(4)]
        async with asyncio.timeout(60):
            await token_requested.wait()
            await asyncio.sleep(0.02)
            cancelled = calls.pop(2 if wait == "waiting" else 0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            may_respond.set()
            assert await asyncio.gather(*calls) == ["j"] * 3
            assert await client.list_sessions_async(QUERY) == "j"


@pytest.mark.parametrize("url", ["http://wix.test", "https://me:pw@wix.test", "ftp://wix.test"])
def test_an_app_secret_is_sent_over_https_or_on_this_machine_only(url):
    with pytest.raises(ValueError, match="base_url"):
        AppAuth("app", CANARY, "instance", base_url=url)


# --- secrets stay secret -----------------------------------------------------------------------


def all_text_of(error):
    """The texts of an error, its causes, and their attributes at any depth."""
    seen, remaining, texts = set(), [error], []
    while remaining:
        item = remaining.pop()
        if item is None or id(item) in seen or isinstance(item, type | str | bytes | int | float):
            texts += [str(item)] if isinstance(item, str) else []
            texts += [item.decode("latin-1")] if isinstance(item, bytes) else []
            continue
        seen.add(id(item))
        texts += [repr(item), str(item)]
        if isinstance(item, BaseException):
            remaining += [item.__cause__, item.__context__, *item.args]
            texts += traceback.format_exception(item)
        if isinstance(item, dict):
            remaining += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            remaining += item
        elif isinstance(item, httpx.Headers):
            remaining.append(item.raw)
        remaining.append(getattr(item, "__dict__", None))
        remaining += [getattr(item, name, None) for name in getattr(type(item), "__slots__", ())]
    return "\n".join(texts)


def test_the_search_for_secrets_finds_one_in_the_attributes_of_a_cause():
    """A precondition of the tests below."""
    request = httpx.Request("GET", "http://h", headers={"authorization": CANARY})
    outer = RuntimeError("outer")
    outer.__context__ = ValueError("inner")
    outer.__context__.request = [{"request": request}]
    assert CANARY in all_text_of(outer)


async def error_of(call):
    """The error of a call; None where the call succeeded."""
    try:
        await call
    except WixError as error:
        return error


@pytest.fixture
def all_logs(caplog):
    """Collects every log record at debug level, and checks that none contains the secret."""
    names = [
        "",
        "httpx",
        "httpcore",
        "httpcore.http11",
        "httpcore.connection",
        "asyncio",
        "prefect_wix",
    ]
    for name in names:
        caplog.set_level(logging.DEBUG, logger=name)
    yield caplog
    records = caplog.get_records("call")
    text = "\n".join(f"{one.getMessage()} {one.args!r} {vars(one)!r}" for one in records)
    assert "receive_response_headers" in text or "connect_tcp" in text, "nothing was logged"
    assert CANARY not in text


ECHO = {"message": f"the key {CANARY} is unknown", "details": {}}
KEY_AUTH = ApiKeyAuth(CANARY, "site")
KEY_FAILURES = {name: response for name, (response, *_) in FAILURES.items()}
KEY_FAILURES |= {f"200 {key}": raw_response(200, body) for key, (body, _) in INVALID_BODIES.items()}
KEY_FAILURES |= {
    "bad compression": raw_response(200, b"nonsense", content_encoding="gzip"),
    "no job id": raw_response(200, {}),
    "bad status line": b"HTTP/1.1 abc\r\n\r\n",
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("response", KEY_FAILURES.values(), ids=KEY_FAILURES)
async def test_no_error_and_no_log_record_contains_the_key(response, call, all_logs):
    async with serving(response, auth=KEY_AUTH, retries=1) as (wix, client):
        error = await error_of(CALLS[call](client))
    for copy in (error, pickle.loads(pickle.dumps(error))):
        assert CANARY not in all_text_of(copy)
    assert CANARY.encode() not in cloudpickle.dumps(error)
    assert wix.requests[0].headers["authorization"] == CANARY


@pytest.mark.parametrize(
    "body",
    [
        ECHO,
        {"message": "", "details": {"applicationError": {"code": "X", "description": CANARY}}},
        {
            "details": {
                "validationError": {"fieldViolations": [{"field": "a", "description": CANARY}]}
            }
        },
    ],
)
async def test_a_key_that_wix_echoes_is_not_in_the_error(body):
    async with serving(raw_response(401, body), auth=KEY_AUTH) as (_, client):
        with pytest.raises(AuthenticationError) as caught:
            await client.list_sessions_async(QUERY)
    assert CANARY not in all_text_of(caught.value)


async def test_no_timeout_and_no_connection_error_contains_the_key(all_logs):
    async def never(_):
        await asyncio.sleep(30)

    async with RawWix(never).running() as wix:
        url = wix.url
        options = {"auth": KEY_AUTH, "timeout_seconds": 0.05, "retries": 0}
        async with raw_client(url, **options) as client:
            with pytest.raises(ResponseLostError) as lost:
                await client.list_sessions_async(QUERY)
    async with raw_client(url, **options) as client:
        with pytest.raises(RequestNotSentError) as not_sent:
            await client.list_sessions_async(QUERY)
    for caught in (lost, not_sent):
        assert CANARY not in all_text_of(caught.value)


APP_FAILURES = {name: [response] for name, (response, _) in NO_TOKEN.items()}
APP_FAILURES |= {name: [response] for name, response in TOKEN_FAILURES.items()}
APP_FAILURES |= {
    "rejected": [raw_response(401, {"error": "invalid_client", "error_description": CANARY})],
    "a token, then a 401": [token(f"{CANARY}-token")],
    "a token with two lines": [token(f"{CANARY}\r\nb: c")],
    "a token that is not ASCII": [token(f"{CANARY}é")],
}


@pytest.mark.parametrize("tokens", APP_FAILURES.values(), ids=APP_FAILURES)
async def test_no_error_and_no_log_record_contains_an_app_secret_or_token(tokens, all_logs):
    async with app_serving(tokens, UNAUTHORIZED, retries=1) as (wix, client):
        with pytest.raises(WixError) as caught:
            await client.list_sessions_async(QUERY)
    assert CANARY not in all_text_of(caught.value)
    assert CANARY in json.dumps(wix.requests[0].body)


async def test_no_failed_listing_contains_the_key(all_logs):
    """A listing whose job fails twice: its errors and log records."""
    responses = [
        JOB,
        raw_response(body={"result": {"jobStatus": "SOMETHING_NEW"}}),
        raw_response(body={"result": {"jobStatus": "ERROR"}}),
        raw_response(500, EMPTY),
        JOB,
        raw_response(body={"result": {"jobStatus": "ERROR"}}),
    ]
    async with (
        serving(*responses, auth=KEY_AUTH) as (_, client),
        Listing(client, QUERY) as listing,
    ):
        with pytest.raises(WixError) as caught:
            await listing.read_all()
    assert CANARY not in all_text_of(caught.value)
    assert any("orphan" in one.getMessage() for one in all_logs.records)


def texts_of(value):
    return [repr(value), str(value), f"{value!s:>5}", repr([value])]


async def test_no_text_of_a_client_or_its_auth_contains_a_secret():
    key = ApiKeyAuth(CANARY, "site-1")
    app = AppAuth("app-1", CANARY, "instance-1", base_url="https://wix.test")
    assert (repr(key), repr(app)) == (
        "ApiKeyAuth(site_id='site-1')",
        "AppAuth(site_id='instance-1')",
    )
    for auth in (key, app):
        async with WixClient(auth) as client:
            assert CANARY not in "".join(texts_of(client) + texts_of(auth))


async def test_a_client_cannot_be_pickled():
    """So no task argument, result or cache can contain its key."""
    async with WixClient(ApiKeyAuth(CANARY, "site")) as client:
        for pickler in (pickle, cloudpickle):
            with pytest.raises(TypeError):
                pickler.dumps(client)


BLOCKS = {
    "key": lambda secret=CANARY, **more: WixCredentials(api_key=secret, site_id="site", **more),
    "app": lambda secret=CANARY, **more: WixAppCredentials(
        app_id="app", app_secret=secret, instance_id="instance", **more
    ),
}


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
def test_no_text_of_a_block_contains_its_secret(make):
    block = make()
    texts = [*texts_of(block), block.model_dump_json(), str(block.model_dump()), str(vars(block))]
    assert CANARY not in "".join(texts)


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize(
    "secret", [text for text in INVALID_HEADERS if CANARY in text and text.strip() != CANARY]
)
def test_a_rejected_secret_is_not_in_the_error(make, secret):
    with pytest.raises(ValidationError, match="Copy it from Wix again") as caught:
        make(secret)
    assert CANARY not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize(
    "more",
    [
        {"base_url": "http://wix.test"},
        {"base_url": f"https://me:{CANARY}@wix.test"},
        {"base_url": f"https://{CANARY}\n"},
        {"requests_per_minute": 0},
        {"requests_per_minute": CANARY},
    ],
)
def test_the_error_of_a_rejected_block_contains_no_secret(make, more):
    with pytest.raises(ValidationError) as caught:
        make(**more)
    assert CANARY not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "url", [f"postgres+odd://u:{CANARY}@h/db", f"{CANARY}", f"duckdb://{CANARY}"]
)
def test_a_rejected_warehouse_url_is_not_in_the_error(url):
    with pytest.raises(ValidationError) as caught:
        SessionsWarehouse(url=url)
    assert CANARY not in str(caught.value) + repr(caught.value)


async def test_the_client_of_a_block_works_with_the_sandbox(sandbox):
    """For the block of a key and for the block of an app."""
    key = WixCredentials(api_key=sandbox.api_key, site_id=sandbox.site_id, base_url=sandbox.url)
    app = WixAppCredentials(
        app_id=sandbox.app_id,
        app_secret=sandbox.app_secret,
        instance_id=sandbox.instance_id,
        base_url=sandbox.url,
    )
    for block in (key, app):
        async with block.get_client() as client:
            assert await client.get_site_timezone() == "Asia/Jerusalem"


async def test_a_client_succeeds_after_two_failures_of_the_token_endpoint(sandbox):
    sandbox.faults = [Fault("server_error", on="token", times=2)]
    async with app_client(sandbox) as client:
        assert await client.get_site_timezone() == "Asia/Jerusalem"
    assert sandbox.count("token") == 3

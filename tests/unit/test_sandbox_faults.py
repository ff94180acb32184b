"""The faults of the sandbox, tested with a plain HTTP client."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from prefect_wix.sandbox import Fault, Sandbox, World, running
from prefect_wix.sandbox.faults import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

LIST = "/analytics/v1/sessions/list/async"
RESULT = "/analytics/v1/sessions/list/result"
RECORDED = "/analytics/v1/sessions/session-recorded"
PROPERTIES = "/site-properties/v4/properties"
EMPTY = {"message": "", "details": {}}
BODY = {
    "customTimePeriod": {"startDate": "2024-03-01", "endDate": "2024-03-08"},
    "deviceType": {"type": "ALL"},
}
WORLD = World.generate(seed=5, sessions=100, start=date(2024, 3, 1), days=5)


@pytest.fixture(scope="module")
def running_sandbox() -> Iterator[Sandbox]:
    with running(WORLD) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Iterator[Sandbox]:
    running_sandbox.reset_counts()
    running_sandbox.recorded.clear()
    yield running_sandbox
    running_sandbox.faults = ()


@pytest.fixture
def wix(sandbox: Sandbox) -> Iterator[httpx.Client]:
    headers = {"authorization": sandbox.api_key, "wix-site-id": sandbox.site_id}
    with httpx.Client(base_url=sandbox.url, headers=headers, verify=False) as wix:
        yield wix


def submit(wix: httpx.Client) -> str:
    return str(wix.post(LIST, json=BODY).json()["jobId"])


def submit_days(wix: httpx.Client, start: str, end: str) -> str:
    body = BODY | {"customTimePeriod": {"startDate": start, "endDate": end}}
    return str(wix.post(LIST, json=body).json()["jobId"])


def statuses(wix: httpx.Client, jobs: list[str]) -> list[str]:
    return [result(wix, job_id)["jobStatus"] for job_id in jobs]


def poll(wix: httpx.Client, job_id: str, limit: int = 1000, offset: int = 0) -> dict[str, Any]:
    answer = page(wix, job_id, limit, offset)
    assert answer.status_code == 200
    return dict(answer.json())


def page(wix: httpx.Client, job_id: str, limit: int = 1000, offset: int = 0) -> httpx.Response:
    return wix.get(RESULT, params={"jobId": job_id, "limit": limit, "offset": offset})


def result(wix: httpx.Client, job_id: str, limit: int = 1000, offset: int = 0) -> dict[str, Any]:
    return dict(poll(wix, job_id, limit, offset)["result"])


def read_all(wix: httpx.Client, job_id: str, limit: int = 20) -> list[str]:
    """Read pages until one is empty. The offset is the number of received IDs."""
    ids: list[str] = []
    while got := result(wix, job_id, limit, len(ids))["sessionIds"]:
        ids += got
    return ids


@pytest.fixture(scope="module")
def truth() -> set[str]:
    return {each.id for each in WORLD.sessions()}


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        (Fault("server_error"), 503, EMPTY),
        (Fault("server_error", status=500), 500, EMPTY),
        (Fault("server_error", status=504), 504, EMPTY),
        (Fault("forbidden"), 403, EMPTY),
        (Fault("expired_token"), 401, None),
        (Fault("rate_limited"), 429, None),
    ],
    ids=repr,
)
def test_an_error_replaces_the_response(
    sandbox: Sandbox, wix: httpx.Client, fault: Fault, status: int, body: object
):
    """The request has no effect and is in the request log."""
    sandbox.faults = [fault]
    jobs = len(sandbox.jobs)
    answer = wix.post(LIST, json=BODY)

    assert answer.status_code == sandbox.requests[0].status == status
    assert answer.headers["x-wix-request-id"]
    assert body is None or answer.json() == body
    assert "retry-after" not in answer.headers
    assert (len(sandbox.jobs), sandbox.submits) == (jobs, [BODY])


def test_a_rate_limit_may_have_a_retry_after_header(sandbox: Sandbox, wix: httpx.Client):
    """The header contains seconds or a date."""
    sandbox.faults = [Fault("rate_limited", retry_after=7, times=1)]
    seconds = wix.post(LIST, json=BODY).headers["retry-after"]
    sandbox.faults = [Fault("rate_limited", retry_after="date", times=1)]
    moment = parsedate_to_datetime(wix.post(LIST, json=BODY).headers["retry-after"])

    assert seconds == "7"
    assert abs((moment - datetime.now(UTC)).total_seconds()) < 3


@pytest.mark.parametrize("status", [200, 502])
def test_an_html_page_replaces_the_json(sandbox: Sandbox, wix: httpx.Client, status: int):
    """The status may be a success."""
    sandbox.faults = [Fault("html", status=status)]
    answer = wix.post(LIST, json=BODY)

    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "text/html; charset=utf-8",
    )
    assert answer.text.startswith("<!doctype html>")


@pytest.mark.parametrize(("kind", "new_jobs"), [("dropped_before", 0), ("dropped_after", 1)])
def test_a_connection_closes_without_a_response(
    sandbox: Sandbox, wix: httpx.Client, kind: str, new_jobs: int
):
    """The request had no effect (before) or its effect (after). The client sees no difference."""
    sandbox.faults = [Fault(kind, times=1)]
    jobs = len(sandbox.jobs)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        wix.post(LIST, json=BODY)

    assert len(sandbox.jobs) - jobs == new_jobs
    (record,) = sandbox.requests
    assert record.status is None
    assert (record.job_id in sandbox.jobs) == (new_jobs == 1)
    assert submit(wix) in sandbox.jobs


def test_a_mark_is_stored_although_its_response_is_lost(sandbox: Sandbox, wix: httpx.Client):
    """`dropped_after` on one endpoint does not affect the others."""
    sandbox.faults = [Fault("dropped_after", on="recorded")]
    job_id = submit(wix)
    with pytest.raises(httpx.RemoteProtocolError):
        wix.post(RECORDED, json={"sessionId": "a"})

    assert sandbox.recorded == {"a"}
    assert result(wix, job_id)["total"] == 100


def test_a_body_is_cut(sandbox: Sandbox, wix: httpx.Client):
    """Fewer bytes arrive than the content-length."""
    job_id = submit(wix)
    sandbox.faults = [Fault("cut_body", times=1)]
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        page(wix, job_id)

    assert result(wix, job_id)["total"] == 100


def test_json_is_truncated(sandbox: Sandbox, wix: httpx.Client):
    """The HTTP message is complete, its JSON is not."""
    job_id = submit(wix)
    sandbox.faults = [Fault("truncated", times=1)]
    answer = page(wix, job_id)

    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    with pytest.raises(ValueError, match="line 1 column"):
        answer.json()


def test_a_response_is_slow(sandbox: Sandbox, wix: httpx.Client):
    """The response is late and correct. A request has its effect after a client timeout."""
    sandbox.faults = [Fault("slow", seconds=0.1, times=1), Fault("slow", seconds=60, after=1)]
    started = time.monotonic()
    submit(wix)
    assert time.monotonic() - started >= 0.1

    jobs = len(sandbox.jobs)
    with pytest.raises(httpx.ReadTimeout):
        wix.post(LIST, json=BODY, timeout=0.05)
    while len(sandbox.jobs) == jobs:
        time.sleep(0.01)


def test_a_job_fails(sandbox: Sandbox, wix: httpx.Client):
    """The status of the first job stays ERROR; the second job finishes."""
    sandbox.faults = [Fault("job_error", times=1)]
    first, second = submit(wix), submit(wix)

    assert [poll(wix, first) for _ in range(2)] == [{"result": {"jobStatus": "ERROR"}}] * 2
    assert result(wix, second)["jobStatus"] == "FINISHED"


def test_a_job_fails_if_its_query_contains_a_day(sandbox: Sandbox, wix: httpx.Client):
    """The end date is exclusive. Jobs without the day are not counted."""
    sandbox.faults = [Fault("job_error", day="2024-03-05", times=2)]
    days = [("03-01", "03-05"), ("03-05", "03-06"), ("03-06", "03-08"), ("03-01", "03-08")]
    jobs = [submit_days(wix, f"2024-{start}", f"2024-{end}") for start, end in days]

    assert statuses(wix, jobs) == ["FINISHED", "ERROR", "FINISHED", "ERROR"]


def test_a_predefined_period_may_contain_the_day_of_a_fault():
    """The days of a predefined period depend on the time zone of the query."""
    with running(WORLD, now=datetime(2024, 3, 15, 23, tzinfo=UTC)) as sandbox:
        sandbox.faults = [Fault("job_never_finishes", day="2024-03-15")]
        headers = {"authorization": sandbox.api_key, "wix-site-id": sandbox.site_id}
        with httpx.Client(base_url=sandbox.url, headers=headers, verify=False) as wix:
            device = {"deviceType": {"type": "ALL"}, "predefinedTimePeriod": "TODAY"}
            bodies = [device | {"timezone": zone} for zone in ("UTC", "Asia/Jerusalem")]
            jobs = [str(wix.post(LIST, json=body).json()["jobId"]) for body in bodies]

            assert statuses(wix, jobs) == ["IN_PROGRESS", "FINISHED"]


def test_a_job_fails_if_its_query_is_too_long(sandbox: Sandbox, wix: httpx.Client):
    """The query has more than `over_days` days."""
    sandbox.faults = [Fault("job_error", over_days=2)]
    ends = ("2024-03-02", "2024-03-03", "2024-03-04", "2024-03-05")
    jobs = [submit_days(wix, "2024-03-01", end) for end in ends]

    assert statuses(wix, jobs) == ["FINISHED", "FINISHED", "ERROR", "ERROR"]


def test_a_job_never_finishes(sandbox: Sandbox, wix: httpx.Client):
    """Its status is IN_PROGRESS while the fault is active."""
    sandbox.faults = [Fault("job_never_finishes")]
    job_id = submit(wix)

    assert {result(wix, job_id)["jobStatus"] for _ in range(5)} == {"IN_PROGRESS"}


@pytest.mark.parametrize("status", ["SOMETHING_NEW", "UNKNOWN_JOB_STATUS"])
def test_a_job_has_an_unknown_status(sandbox: Sandbox, wix: httpx.Client, status: str):
    """For the first polls of every job, or for all."""
    sandbox.faults = [Fault("unknown_status", status=status, polls=2)]
    for job_id in (submit(wix), submit(wix)):
        seen = [result(wix, job_id)["jobStatus"] for _ in range(3)]
        assert seen == [status, status, "FINISHED"]

    sandbox.faults = [Fault("unknown_status", status=status)]
    assert {result(wix, job_id)["jobStatus"] for _ in range(5)} == {status}


def test_a_job_is_unknown_at_first(sandbox: Sandbox, wix: httpx.Client):
    """The first polls of every job are a 404."""
    sandbox.faults = [Fault("unknown_job", polls=2)]
    for job_id in (submit(wix), submit(wix)):
        assert [page(wix, job_id).status_code for _ in range(3)] == [404, 404, 200]


@pytest.mark.parametrize("name", ["jobStatus", "total", "sessionIds"])
def test_a_field_is_missing(sandbox: Sandbox, wix: httpx.Client, name: str):
    """The other fields of the result remain."""
    sandbox.faults = [Fault("missing_fields", field=name)]

    assert result(wix, submit(wix)).keys() == {"jobStatus", "total", "sessionIds"} - {name}


def test_the_whole_result_is_missing(sandbox: Sandbox, wix: httpx.Client):
    """The response is an empty object."""
    sandbox.faults = [Fault("missing_fields", field="result")]

    assert poll(wix, submit(wix)) == {}


@pytest.mark.parametrize(
    ("fault", "totals"),
    [
        (Fault("null_total", times=1), [None, 100, 100]),
        (Fault("wrong_total", delta=-3), [97, 97, 97]),
        (Fault("changing_total", delta=5), [100, 105, 100]),
    ],
    ids=repr,
)
def test_a_total_is_wrong(
    sandbox: Sandbox, wix: httpx.Client, truth: set[str], fault: Fault, totals: list[int | None]
):
    """The IDs are correct."""
    sandbox.faults = [fault]
    job_id = submit(wix)
    results = [result(wix, job_id) for _ in range(3)]

    assert [each["total"] for each in results] == totals
    assert all(set(each["sessionIds"]) == truth for each in results)


def test_pages_are_smaller_than_the_limit(sandbox: Sandbox, wix: httpx.Client, truth: set[str]):
    """A client that counts received IDs gets each ID once."""
    sandbox.faults = [Fault("small_pages", size=7)]
    job_id = submit(wix)

    assert len(result(wix, job_id)["sessionIds"]) == 7
    assert sorted(read_all(wix, job_id)) == sorted(truth)


def test_pages_are_larger_than_the_limit(sandbox: Sandbox, wix: httpx.Client):
    """The page has the requested IDs and those that follow."""
    sandbox.faults = [Fault("large_pages", extra=2, times=1)]
    job_id = submit(wix)
    large = result(wix, job_id, 10, 5)["sessionIds"]

    assert large == result(wix, job_id, 12, 5)["sessionIds"]
    assert len(result(wix, job_id, 10)["sessionIds"]) == 10


def test_a_large_offset_returns_the_page_at_a_smaller_one(sandbox: Sandbox, wix: httpx.Client):
    """No page ends the list."""
    sandbox.faults = [Fault("clamped_offset", largest=30)]
    job_id = submit(wix)
    last = result(wix, job_id, 10, 30)

    assert len(last["sessionIds"]) == 10
    assert last == result(wix, job_id, 10, 31) == result(wix, job_id, 10, 1000)
    assert last != result(wix, job_id, 10, 20)


def test_the_order_changes_within_ties(sandbox: Sandbox, wix: httpx.Client, truth: set[str]):
    """Whole ties have the same IDs in each response; parts of a tie do not."""
    job_id = submit(wix)
    in_order = result(wix, job_id, 100)["sessionIds"]
    sandbox.faults = [Fault("unstable_order", ties=25)]
    drawn = [result(wix, job_id, 50)["sessionIds"] for _ in range(2)]

    assert drawn[0] != drawn[1] != in_order[:50]
    assert set(drawn[0]) == set(drawn[1]) == set(in_order[:50])
    assert set(result(wix, job_id, 1000)["sessionIds"]) == truth
    assert set(result(wix, job_id, 10)["sessionIds"]) < set(in_order[:25])


def test_a_limit_is_rejected_with_a_threshold(sandbox: Sandbox, wix: httpx.Client):
    """A limit over the threshold is a 400 with the threshold; an equal limit succeeds."""
    sandbox.faults = [Fault("limit_violation", threshold=50)]
    job_id = submit(wix)
    rejected = page(wix, job_id, 51)
    (found,) = rejected.json()["details"]["validationError"]["fieldViolations"]

    assert (rejected.status_code, found["field"], found["data"]) == (
        400,
        "limit",
        {"threshold": 50},
    )
    assert len(result(wix, job_id, 50)["sessionIds"]) == 50


def test_a_limit_is_rejected_without_a_threshold(sandbox: Sandbox, wix: httpx.Client):
    """threshold=None rejects more than 100 without a threshold in the violation."""
    sandbox.faults = [Fault("limit_violation", threshold=None)]
    job_id = submit(wix)
    (found,) = page(wix, job_id, 101).json()["details"]["validationError"]["fieldViolations"]

    assert "data" not in found
    assert len(result(wix, job_id, 100)["sessionIds"]) == 100


def test_pages_overlap(sandbox: Sandbox, wix: httpx.Client, truth: set[str]):
    """Each later page begins with IDs of the page before. All IDs arrive."""
    sandbox.faults = [Fault("repeats", n=3)]
    ids = read_all(wix, submit(wix))

    assert ids[20:23] == ids[17:20]
    assert set(ids) == truth
    assert len(ids) - len(truth) == 3 * ((len(ids) - 1) // 20)


def test_pages_overlap_and_omit_ids(sandbox: Sandbox, wix: httpx.Client, truth: set[str]):
    """The first pass over the pages misses IDs, the second is complete."""
    sandbox.faults = [Fault("lossy_repeats", n=2)]
    job_id = submit(wix)
    first, second = read_all(wix, job_id), read_all(wix, job_id)

    assert len(first) == len(second) == 100
    assert len(truth - set(first)) == 2 * 4
    assert set(second) == truth


@pytest.mark.parametrize("at", ["start", "end"])
def test_a_result_grows_while_it_is_paged(
    sandbox: Sandbox, wix: httpx.Client, truth: set[str], at: str
):
    """Withheld IDs appear page by page; then the result is stable and complete."""
    sandbox.faults = [Fault("growing_result", until=7, step=1, at=at)]
    job_id = submit(wix)
    early = result(wix, job_id, 1000)
    first = read_all(wix, job_id)
    read_all(wix, job_id)

    assert (early["total"], len(truth - set(early["sessionIds"]))) == (93, 7)
    assert (set(first) == truth) == (at == "end")
    assert sorted(read_all(wix, job_id)) == sorted(truth)


@pytest.mark.parametrize("at", ["start", "end"])
def test_a_result_shrinks_while_it_is_paged(
    sandbox: Sandbox, wix: httpx.Client, truth: set[str], at: str
):
    """Extra IDs disappear page by page; then the result is stable and correct."""
    sandbox.faults = [Fault("shrinking_result", until=7, step=1, at=at)]
    job_id = submit(wix)
    early = result(wix, job_id, 1000)
    for _ in range(2):
        read_all(wix, job_id)

    assert (early["total"], len(set(early["sessionIds"]) - truth)) == (107, 7)
    assert sorted(read_all(wix, job_id)) == sorted(truth)


def test_a_page_is_empty_although_ids_remain(sandbox: Sandbox, wix: httpx.Client):
    """The next page has IDs."""
    sandbox.faults = [Fault("empty_page", after=1, times=1)]
    job_id = submit(wix)
    sizes = [len(result(wix, job_id, 10)["sessionIds"]) for _ in range(3)]

    assert sizes == [10, 0, 10]


@pytest.mark.parametrize(("value", "bad"), [("null", None), ("number", 12345), ("empty", "")])
def test_ids_are_invalid(sandbox: Sandbox, wix: httpx.Client, value: str, bad: object):
    """Some entries are not IDs."""
    sandbox.faults = [Fault("bad_ids", value=value, n=2, times=1)]
    job_id = submit(wix)

    assert result(wix, job_id)["sessionIds"].count(bad) == 2
    assert result(wix, job_id)["sessionIds"].count(bad) == 0


def test_a_fault_counts_only_requests_that_it_changes(sandbox: Sandbox, wix: httpx.Client):
    """`after` and `times` ignore requests on which the fault has no effect."""
    sandbox.faults = [Fault("empty_page", times=1), Fault("null_total", times=1)]
    job_id = submit(wix)

    assert result(wix, job_id, 10, 500)["total"] is None
    assert result(wix, job_id, 10)["sessionIds"] == []


def test_after_and_times_select_the_requests(sandbox: Sandbox, wix: httpx.Client):
    """The first requests succeed, the next fail, and the rest succeed."""
    sandbox.faults = [Fault("server_error", on="properties", after=2, times=2)]
    submit(wix)

    assert [wix.get(PROPERTIES).status_code for _ in range(6)] == [200, 200, 503, 503, 200, 200]


def test_a_rate_affects_the_same_requests_for_the_same_seed(sandbox: Sandbox, wix: httpx.Client):
    """An assignment of the faults restarts their random generators."""
    runs = []
    for _ in range(2):
        sandbox.faults = [Fault("server_error", rate=0.3)]
        runs.append([wix.get(PROPERTIES).status_code for _ in range(60)])

    assert runs[0] == runs[1]
    assert 5 < runs[0].count(503) < 35


def test_faults_are_combined(sandbox: Sandbox, wix: httpx.Client, truth: set[str]):
    """Several faults apply to one request independently."""
    sandbox.faults = [
        Fault("repeats", n=2),
        Fault("small_pages", size=10),
        Fault("wrong_total", delta=1),
        Fault("unknown_status", polls=1),
        Fault("server_error", on=["result"], times=1),
    ]
    job_id = submit(wix)

    assert page(wix, job_id).status_code == 503
    assert result(wix, job_id) == {"jobStatus": "SOMETHING_NEW"}
    assert result(wix, job_id)["total"] == 101
    assert set(read_all(wix, job_id)) == truth


def test_a_job_may_return_the_listing_of_another_query(sandbox: Sandbox, wix: httpx.Client):
    """It is the listing of the last earlier job with a different query."""
    mobile = {**BODY, "deviceType": {"type": "MOBILE"}}
    first = str(wix.post(LIST, json=mobile).json()["jobId"])
    sandbox.faults = [Fault("swapped_job")]

    assert set(read_all(wix, submit(wix))) == sandbox.answer(mobile)
    assert result(wix, submit(wix))["total"] == len(sandbox.answer(mobile)) != 100
    assert set(read_all(wix, first)) <= sandbox.answer(BODY)


def test_a_job_may_return_an_old_listing():
    """It is the listing of the first job with the same query."""
    hour = datetime(2024, 3, 3, tzinfo=UTC)
    with running(WORLD, now=lambda: hour, faults=[Fault("stale_result")]) as sandbox:
        headers = {"authorization": sandbox.api_key, "wix-site-id": sandbox.site_id}
        with httpx.Client(base_url=sandbox.url, headers=headers, verify=False) as wix:
            before = set(read_all(wix, submit(wix)))
            hour = datetime(2024, 3, 9, tzinfo=UTC)
            assert set(read_all(wix, submit(wix))) == before
            assert before < sandbox.answer(BODY)


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("nope", {}, "Unknown fault 'nope'; known faults: rate_limited"),
        ("slow", {"second": 1}, "The fault 'slow' has no option 'second'; its options: seconds."),
        ("truncated", {"n": 1}, "has no option 'n'; its options: none."),
        ("missing_fields", {"field": "id"}, "field of the fault 'missing_fields' must be one of"),
        ("repeats", {"on": "list"}, "The fault 'repeats' supports result, not 'list'."),
        ("expired_token", {"on": ["token"]}, "not 'token'"),
        ("job_error", {"day": "March"}, "day of a fault must be a date, YYYY-MM-DD, not 'March'."),
    ],
)
def test_an_invalid_fault_is_rejected(kind: str, options: dict[str, Any], sentence: str):
    """The error is one sentence with the valid values."""
    with pytest.raises(ValueError, match=sentence):
        Fault(kind, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_parsed_from_its_name(kind: str):
    """The default is every supported endpoint."""
    assert repr(Fault.parse(kind)) == repr(Fault(kind))


def test_a_fault_is_parsed_with_options():
    """Options are numbers, texts, none, dates and several endpoints."""
    text = "rate_limited:on=list+result,rate=0.5,times=3,after=2,retry_after=none"

    assert repr(Fault.parse(text)) == repr(
        Fault("rate_limited", on=("list", "result"), rate=0.5, times=3, after=2, retry_after=None)
    )
    text = "job_error:day=2024-03-03,over_days=7"
    assert repr(Fault.parse(text)) == repr(Fault("job_error", day="2024-03-03", over_days=7))
    with pytest.raises(ValueError, match="'seconds' in the fault 'slow:seconds' is not key=value"):
        Fault.parse("slow:seconds")

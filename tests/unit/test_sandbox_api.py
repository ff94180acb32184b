"""The documented behaviour of the API, tested with a plain HTTP client."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from prefect_wix.sandbox import Rules, Sandbox, World, running

if TYPE_CHECKING:
    from collections.abc import Iterator

LIST = "/analytics/v1/sessions/list/async"
RESULT = "/analytics/v1/sessions/list/result"
RECORDED = "/analytics/v1/sessions/session-recorded"
DELETED = "/analytics/v1/sessions/recordings-deleted"
TOKEN = "/oauth2/token"
PROPERTIES = "/site-properties/v4/properties"
DATA = "/analytics/v2/site-analytics/data"
SITES = "/site-list/v2/sites/query"

EMPTY = {"message": "", "details": {}}
DAYS = {"customTimePeriod": {"startDate": "2024-03-01", "endDate": "2024-03-08"}}
ALL = {"deviceType": {"type": "ALL"}}
WORLD = World.generate(seed=5, sessions=1200, start=date(2024, 3, 1), days=10)
NOW = datetime(2024, 4, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running(WORLD, now=NOW, sites=5) as sandbox:
        yield sandbox


@pytest.fixture
def wix(sandbox: Sandbox) -> Iterator[httpx.Client]:
    with client(sandbox) as wix:
        yield wix


def client(sandbox: Sandbox, **headers: str) -> httpx.Client:
    """A client with the API key, or with exactly the headers given."""
    own = headers or {"authorization": sandbox.api_key, "wix-site-id": sandbox.site_id}
    return httpx.Client(base_url=sandbox.url, headers=own, verify=False)


def violations(answer: httpx.Response) -> dict[str, str]:
    """The violated rule by field of a 400 response."""
    assert answer.status_code == 400
    found = answer.json()["details"]["validationError"]["fieldViolations"]
    assert all(each["description"] for each in found)
    return {each["field"]: each["violatedRule"] for each in found}


def submit(wix: httpx.Client, body: dict[str, Any]) -> str:
    answer = wix.post(LIST, json=body)
    assert answer.status_code == 200
    return str(answer.json()["jobId"])


def poll(wix: httpx.Client, job_id: str, limit: int = 1000, offset: int = 0) -> httpx.Response:
    return wix.get(RESULT, params={"jobId": job_id, "limit": limit, "offset": offset})


def credentials(sandbox: Sandbox, **changed: str | None) -> dict[str, str]:
    body = {
        "grant_type": "client_credentials",
        "client_id": sandbox.app_id,
        "client_secret": sandbox.app_secret,
        "instance_id": sandbox.instance_id,
    } | changed
    return {name: value for name, value in body.items() if value is not None}


def test_a_listing_costs_two_requests(sandbox: Sandbox, wix: httpx.Client):
    """The poll that finds the job finished carries page one."""
    body = {**DAYS, **ALL}
    result = poll(wix, submit(wix, body)).json()["result"]

    assert result["jobStatus"] == "FINISHED"
    assert result["total"] == len(result["sessionIds"])
    assert set(result["sessionIds"]) == sandbox.answer(body) != set()


def test_limit_and_offset_select_a_page(wix: httpx.Client):
    """Pages do not overlap, and a page after the end is empty."""
    job_id = submit(wix, {**DAYS, **ALL})
    whole = poll(wix, job_id).json()["result"]["sessionIds"]
    pages = [poll(wix, job_id, 100, offset).json()["result"] for offset in range(0, 1200, 100)]

    assert [each for page in pages for each in page["sessionIds"]] == whole
    assert {page["total"] for page in pages} == {len(whole)}
    assert pages[-1]["sessionIds"] == []


def test_a_job_is_in_progress_for_its_duration():
    """Until it is finished, its status is IN_PROGRESS and it returns no IDs."""
    with running(WORLD, job_seconds=(0.1, 0.2)) as sandbox, client(sandbox) as wix:
        job_id = submit(wix, {**DAYS, **ALL})
        assert poll(wix, job_id).json() == {"result": {"jobStatus": "IN_PROGRESS"}}
        job = sandbox.jobs[job_id]
        assert 0.1 <= job.ready - job.submitted <= 0.2
        while (result := poll(wix, job_id).json()["result"])["jobStatus"] == "IN_PROGRESS":
            pass
        assert result["jobStatus"] == "FINISHED"


def test_the_documented_example_is_accepted(wix: httpx.Client):
    """Each submit of Wix's example body returns a new job ID."""
    body = {"deviceType": {"type": "MOBILE"}, "predefinedTimePeriod": "LAST_30_DAYS"}

    assert submit(wix, body) != submit(wix, body)


LONG_ZONE = "A" * 101


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({**DAYS, **ALL, "pages": 1}, "pages", "FIELD_NOT_ALLOWED"),
        (ALL, "customTimePeriod|predefinedTimePeriod", "REQUIRED_ONE_OF_FIELD"),
        (DAYS, "deviceType|conversionFunnel|navigationFlow", "REQUIRED_ONE_OF_FIELD"),
        (
            {**DAYS, **ALL, "predefinedTimePeriod": "TODAY"},
            "predefinedTimePeriod",
            "ONE_OF_ALIGNMENT",
        ),
        (
            {**DAYS, **ALL, "navigationFlow": {"pageInteractions": [""]}},
            "navigationFlow",
            "ONE_OF_ALIGNMENT",
        ),
        (
            {"predefinedTimePeriod": "LAST_8_DAYS", **ALL},
            "predefinedTimePeriod",
            "INVALID_ENUM_VALUE",
        ),
        ({**DAYS, "deviceType": "MOBILE"}, "deviceType", "FORMAT"),
        ({**DAYS, "deviceType": {}}, "deviceType.type", "INVALID_ENUM_VALUE"),
        ({**DAYS, "deviceType": {"type": "TV"}}, "deviceType.type", "INVALID_ENUM_VALUE"),
        (
            {**DAYS, "deviceType": {"type": "NOT_SELECTED_DEVICE_TYPE"}},
            "deviceType.type",
            "INVALID_ENUM_VALUE",
        ),
        ({**DAYS, "deviceType": {"type": "ALL", "x": 1}}, "deviceType.x", "FIELD_NOT_ALLOWED"),
        ({**DAYS, "conversionFunnel": {}}, "conversionFunnel", "REQUIRED_ONE_OF_FIELD"),
        ({**DAYS, "conversionFunnel": "ADDED_TO_CART"}, "conversionFunnel", "FORMAT"),
        (
            {**DAYS, "conversionFunnel": {"include": "NOT_SELECTED_FUNNEL_STEP"}},
            "conversionFunnel.include",
            "INVALID_ENUM_VALUE",
        ),
        (
            {**DAYS, "conversionFunnel": {"exclude": None}},
            "conversionFunnel",
            "REQUIRED_ONE_OF_FIELD",
        ),
        ({**DAYS, "navigationFlow": []}, "navigationFlow", "FORMAT"),
        (
            {**DAYS, "navigationFlow": {"pageInteractions": []}},
            "navigationFlow.pageInteractions",
            "MIN_SIZE",
        ),
        (
            {**DAYS, "navigationFlow": {"pageInteractions": ["", 1]}},
            "navigationFlow.pageInteractions",
            "FORMAT",
        ),
        ({**DAYS, **ALL, "timezone": "Mars/Olympus"}, "timezone", "VALIDATION"),
        ({**DAYS, **ALL, "timezone": ""}, "timezone", "VALIDATION"),
        ({**DAYS, **ALL, "timezone": "../UTC"}, "timezone", "VALIDATION"),
        ({**DAYS, **ALL, "timezone": LONG_ZONE}, "timezone", "MAX_LENGTH"),
        ({**DAYS, **ALL, "timezone": 2}, "timezone", "FORMAT"),
        ({**ALL, "customTimePeriod": "2024"}, "customTimePeriod", "FORMAT"),
    ],
)
def test_an_undocumented_body_is_rejected(
    sandbox: Sandbox, wix: httpx.Client, body: dict[str, Any], field: str, rule: str
):
    """The response is a 400 that names the field. No job is created."""
    jobs = len(sandbox.jobs)

    assert violations(wix.post(LIST, json=body)) == {field: rule}
    assert len(sandbox.jobs) == jobs


@pytest.mark.parametrize(
    ("start", "end", "wrong"),
    [
        ("2024-03-01", "2024-03-01", {"endDate": "VALIDATION"}),
        ("2024-03-02", "2024-03-01", {"endDate": "VALIDATION"}),
        ("2024-3-1", "2024-03-05", {"startDate": "FORMAT"}),
        ("2024-02-30", "2024-W10-1", {"startDate": "FORMAT", "endDate": "FORMAT"}),
        (20240301, None, {"startDate": "FORMAT", "endDate": "FORMAT"}),
    ],
)
def test_dates_are_valid_and_in_order(
    wix: httpx.Client, start: Any, end: Any, wrong: dict[str, str]
):
    """Dates are YYYY-MM-DD. The end is exclusive and after the start."""
    body = {**ALL, "customTimePeriod": {"startDate": start, "endDate": end}}

    assert violations(wix.post(LIST, json=body)) == {
        f"customTimePeriod.{name}": rule for name, rule in wrong.items()
    }


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null"])
def test_a_body_is_a_json_object(wix: httpx.Client, content: bytes):
    """Any other body is a 400."""
    assert violations(wix.post(LIST, content=content)) == {"body": "FORMAT"}


@pytest.mark.parametrize(
    ("params", "wrong"),
    [
        ({}, {"jobId": "REQUIRED_FIELD", "limit": "REQUIRED_FIELD", "offset": "REQUIRED_FIELD"}),
        ({"jobId": "x", "limit": 10}, {"offset": "REQUIRED_FIELD"}),
        ({"jobId": "", "limit": 10, "offset": 0}, {"jobId": "REQUIRED_FIELD"}),
        ({"jobId": "x", "limit": 0, "offset": -1}, {"limit": "MIN", "offset": "MIN"}),
        ({"jobId": "x", "limit": 1001, "offset": 0}, {"limit": "MAX"}),
        ({"jobId": "x", "limit": "ten", "offset": "1.5"}, {"limit": "FORMAT", "offset": "FORMAT"}),
        ({"jobId": "x", "limit": [1, 2], "offset": 0}, {"limit": "FORMAT"}),
    ],
)
def test_a_result_request_needs_three_valid_parameters(
    wix: httpx.Client, params: dict[str, Any], wrong: dict[str, str]
):
    """`limit` is a whole number from 1 to 1000, `offset` a whole number from 0."""
    assert violations(wix.get(RESULT, params=params)) == wrong


def test_a_rule_sets_the_largest_limit():
    """The violation contains the largest limit as its threshold."""
    with running(WORLD, rules=Rules(page_cap=50)) as sandbox, client(sandbox) as wix:
        job_id = submit(wix, {**DAYS, **ALL})
        rejected = poll(wix, job_id, 51)

        assert poll(wix, job_id, 50).status_code == 200
        assert violations(rejected) == {"limit": "MAX"}
        (found,) = rejected.json()["details"]["validationError"]["fieldViolations"]
        assert found["data"] == {"threshold": 50}


@pytest.mark.parametrize("status", [404, 400, 200])
def test_a_rule_sets_the_response_for_an_unknown_job(status: int):
    """An error status, or 200 with UNKNOWN_JOB_STATUS."""
    with running(WORLD, rules=Rules(unknown_job_status=status)) as sandbox, client(sandbox) as wix:
        answer = poll(wix, "a391a44f-b037-4344-b555-6f5be67c4123")

    assert answer.status_code == status
    if status == 200:
        assert answer.json() == {"result": {"jobStatus": "UNKNOWN_JOB_STATUS"}}
    else:
        assert answer.json()["details"]["applicationError"]["code"] == "NOT_FOUND"


def test_a_rule_sets_the_lifetime_of_a_job():
    """A job is unknown after its lifetime."""
    with running(WORLD, rules=Rules(job_lifetime_seconds=0)) as sandbox, client(sandbox) as wix:
        assert poll(wix, submit(wix, {**DAYS, **ALL})).status_code == 404


def test_marks_are_stored(sandbox: Sandbox, wix: httpx.Client):
    """Both endpoints return an empty object and accept repetitions."""
    first, second = (WORLD.ids[n] for n in (0, 1))
    for _ in range(2):
        assert wix.post(RECORDED, json={"sessionId": first}).json() == {}
        assert wix.post(DELETED, json={"sessionIds": [first, second]}).json() == {}

    assert sandbox.recorded == {first}
    assert sandbox.deleted == {first, second}


@pytest.mark.parametrize(
    ("path", "body", "wrong"),
    [
        (RECORDED, {}, {"sessionId": "REQUIRED_FIELD"}),
        (RECORDED, {"sessionId": 3}, {"sessionId": "REQUIRED_FIELD"}),
        (RECORDED, {"sessionId": "a", "at": 1}, {"at": "FIELD_NOT_ALLOWED"}),
        (DELETED, {}, {"sessionIds": "FORMAT"}),
        (DELETED, {"sessionIds": "a"}, {"sessionIds": "FORMAT"}),
        (DELETED, {"sessionIds": ["a", ""]}, {"sessionIds": "FORMAT"}),
        (DELETED, {"sessionIds": []}, {"sessionIds": "MIN_SIZE"}),
        (DELETED, {"sessionIds": ["a"] * 101}, {"sessionIds": "MAX_SIZE"}),
    ],
)
def test_invalid_marks_are_rejected(
    wix: httpx.Client, path: str, body: dict[str, Any], wrong: dict[str, str]
):
    """A request marks one ID as recorded, or 1 to 100 IDs as deleted."""
    assert violations(wix.post(path, json=body)) == wrong


def test_rules_reject_marks_of_unknown_or_marked_sessions():
    """404 for an unknown session, 409 for a session that is already marked."""
    rules = Rules(accepts_unknown_marks=False, accepts_repeated_marks=False)
    known = WORLD.ids[0]
    with running(WORLD, rules=rules) as sandbox, client(sandbox) as wix:
        marks = [wix.post(RECORDED, json={"sessionId": each}) for each in ("x", known, known)]
        batch = wix.post(DELETED, json={"sessionIds": [known, "x"]})

        assert [each.status_code for each in (*marks, batch)] == [404, 200, 409, 404]
        assert (sandbox.recorded, sandbox.deleted) == ({known}, set())


SITE_CALLS = [
    ("POST", LIST),
    ("GET", RESULT),
    ("POST", RECORDED),
    ("POST", DELETED),
    ("GET", PROPERTIES),
    ("GET", DATA),
]


@pytest.mark.parametrize(("method", "path"), SITE_CALLS)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"wix-site-id": "{0.site_id}"}, 401),
        ({"authorization": "{0.api_key}"}, 403),
        ({"authorization": "{0.api_key}", "wix-site-id": "another"}, 403),
        (
            {
                "authorization": "{0.api_key}",
                "wix-site-id": "{0.site_id}",
                "wix-account-id": "{0.account_id}",
            },
            403,
        ),
        ({"authorization": "wrong", "wix-site-id": "{0.site_id}"}, 401),
        ({"authorization": "Bearer {0.api_key}", "wix-site-id": "{0.site_id}"}, 401),
    ],
    ids=["nothing", "no key", "no site", "another site", "account too", "wrong", "Bearer"],
)
def test_a_site_request_needs_the_raw_key_and_the_site_id(
    sandbox: Sandbox, method: str, path: str, headers: dict[str, str], status: int
):
    """A missing or invalid key is a 401, another wrong header a 403 with an empty body."""
    own = {name: value.format(sandbox) for name, value in headers.items()}
    answer = httpx.request(method, sandbox.url + path, headers=own, verify=False)

    assert answer.status_code == status
    assert (answer.json() == EMPTY) == (status == 403)


def test_an_app_gets_a_token_and_sends_it(sandbox: Sandbox):
    """A token may have the scheme Bearer and a site ID beside it. An account ID is a 403."""
    with client(sandbox, accept="*/*") as wix:
        minted = wix.post(TOKEN, json=credentials(sandbox)).json()
    token = minted.pop("access_token")

    assert minted == {"token_type": "Bearer", "expires_in": 14_400}
    for headers, status in [
        ({}, 200),
        ({"wix-site-id": sandbox.site_id}, 200),
        ({"wix-account-id": sandbox.account_id}, 403),
    ]:
        for credential in (token, f"Bearer {token}"):
            with client(sandbox, authorization=credential, **headers) as app:
                assert app.post(LIST, json={**DAYS, **ALL}).status_code == status


def test_a_rule_makes_a_missing_key_a_403():
    """As a user measured; Wix documents 401."""
    rules = Rules(missing_authorization_is_forbidden=True)
    with running(WORLD, rules=rules) as sandbox, client(sandbox, accept="*/*") as wix:
        assert wix.post(LIST, json={**DAYS, **ALL}).status_code == 403


def test_null_counts_as_absent(sandbox: Sandbox, wix: httpx.Client):
    """The types of Wix's SDK allow null; without page interactions every session matches."""
    nulls = {"timezone": None, "predefinedTimePeriod": None, "conversionFunnel": None}
    funnel = {"conversionFunnel": {"include": "ADDED_TO_CART", "exclude": None}}
    job = submit(wix, {**DAYS, "navigationFlow": {"pageInteractions": None}})

    assert submit(wix, {**DAYS, **ALL, **nulls})
    assert submit(wix, {**DAYS, **funnel})
    assert poll(wix, job).json()["result"]["total"] == len(sandbox.answer({**DAYS, **ALL}))


def test_a_rule_accepts_the_unset_values_of_enums():
    """NOT_SELECTED_... then counts as absent; by default it is an invalid value."""
    body = {"include": "ADDED_TO_CART", "exclude": "NOT_SELECTED_FUNNEL_STEP"}
    rules = Rules(accepts_unset_enums=True)
    with running(WORLD, rules=rules) as sandbox, client(sandbox) as wix:
        assert submit(wix, {**DAYS, "conversionFunnel": body})


@pytest.mark.parametrize("path", [f"{LIST}/", LIST.replace("/list", "//list"), f"{LIST}//"])
def test_a_double_or_trailing_slash_does_no_harm(wix: httpx.Client, path: str):
    """Wix's own documentation writes site-analytics//data."""
    assert wix.post(path, json={**DAYS, **ALL}).status_code == 200


def test_an_offset_is_a_32_bit_number(wix: httpx.Client):
    """The page after the end is empty, up to 2^31 - 1."""
    job_id = submit(wix, {**DAYS, **ALL})

    assert poll(wix, job_id, offset=2**31 - 1).json()["result"]["sessionIds"] == []
    assert violations(poll(wix, job_id, offset=2**31)) == {"offset": "MAX"}


def test_errors_have_the_documented_code_names(wix: httpx.Client, sandbox: Sandbox):
    """Such as NOT_FOUND for an unknown job."""
    rules = Rules(accepts_repeated_marks=False)
    with running(WORLD, rules=rules, requests_per_minute=2) as other, client(other) as strict:
        marks = [strict.post(RECORDED, json={"sessionId": WORLD.ids[0]}) for _ in range(3)]
    with client(sandbox, authorization="wrong") as wrong:
        answers = [wrong.get(RESULT), poll(wix, "unknown"), *marks[1:]]
    codes = [each.json()["details"]["applicationError"]["code"] for each in answers]

    assert codes == ["UNAUTHENTICATED", "NOT_FOUND", "ALREADY_EXISTS", "RESOURCE_EXHAUSTED"]


def test_a_token_expires():
    """After four hours on the server's clock a token is a 401; a new token works."""
    clock = {"now": NOW}
    with running(WORLD, now=lambda: clock["now"]) as sandbox:
        for _ in range(2):
            with client(sandbox, accept="*/*") as wix:
                token = wix.post(TOKEN, json=credentials(sandbox)).json()["access_token"]
            with client(sandbox, authorization=token) as app:
                clock["now"] += timedelta(seconds=14_399)
                assert app.post(LIST, json={**DAYS, **ALL}).status_code == 200
                clock["now"] += timedelta(seconds=1)
                assert app.post(LIST, json={**DAYS, **ALL}).status_code == 401
        assert sandbox.tokens_minted == 2


@pytest.mark.parametrize(
    ("changed", "status", "error"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": None}, 400, "unsupported_grant_type"),
        ({"instance_id": None}, 400, "invalid_request"),
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_id": "wrong"}, 401, "invalid_client"),
        ({"instance_id": "wrong"}, 400, "invalid_grant"),
    ],
)
def test_token_errors_are_oauth_errors(
    sandbox: Sandbox, changed: dict[str, str | None], status: int, error: str
):
    """The body has the two fields `error` and `error_description`."""
    with client(sandbox, accept="*/*") as wix:
        answer = wix.post(TOKEN, json=credentials(sandbox, **changed))

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json()["error_description"]


def test_every_response_has_a_unique_request_id(sandbox: Sandbox, wix: httpx.Client):
    """This includes errors, unknown paths and wrong methods."""
    answers = [
        wix.post(LIST, json={**DAYS, **ALL}),
        wix.post(LIST, json={}),
        wix.get("/nowhere"),
        wix.get(LIST),
        httpx.get(sandbox.url + RESULT, verify=False),
    ]

    assert [each.status_code for each in answers] == [200, 400, 404, 405, 401]
    assert len({each.headers["x-wix-request-id"] for each in answers}) == 5


def test_each_site_has_a_rate_limit_with_a_sliding_minute():
    """A request beyond the limit is a 429. Another site has its own limit."""
    other = "0f4fd5b2-0000-4000-a000-000000000000"
    with running(WORLD, requests_per_minute=3, sites={other: World()}) as sandbox:
        with client(sandbox) as wix:
            statuses = [wix.get(PROPERTIES).status_code for _ in range(5)]
        with client(sandbox, authorization=sandbox.api_key, **{"wix-site-id": other}) as wix:
            beside = wix.get(PROPERTIES).status_code

    assert (statuses, beside) == ([200, 200, 200, 429, 429], 200)


@pytest.mark.parametrize("params", [{"fields.paths": "timeZone"}, {"fields": "timeZone"}], ids=str)
def test_site_properties_return_the_requested_fields(wix: httpx.Client, params: dict[str, str]):
    """The response contains only requested fields; without a mask it contains all."""
    zone = {"timeZone": "Asia/Jerusalem"}
    assert wix.get(PROPERTIES, params=params).json() == {"properties": zone}
    everything = {"siteDisplayName": "Shop 1", **zone}
    assert wix.get(PROPERTIES).json() == {"properties": everything}
    assert wix.get(PROPERTIES, params={"fields.paths": "email"}).json() == {"properties": {}}


def test_a_rule_omits_the_time_zone_of_the_site():
    """Without a known time zone the properties are empty."""
    rules = Rules(site_timezone_known=False)
    with running(WORLD, rules=rules) as sandbox, client(sandbox) as wix:
        answer = wix.get(PROPERTIES, params={"fields.paths": "timeZone"})

    assert answer.json() == {"properties": {}}


def counts(wix: httpx.Client, start: str, end: str, **more: str) -> httpx.Response:
    dates = {"dateRange.startDate": start, "dateRange.endDate": end}
    return wix.get(DATA, params={"measurementTypes": "TOTAL_SESSIONS", **dates, **more})


def test_session_counts_agree_with_the_listing(sandbox: Sandbox, wix: httpx.Client):
    """The counts have one value per local day of the half-open range."""
    (measured,) = counts(wix, "2024-03-01", "2024-03-08", timeZone="Asia/Tokyo").json()["data"]
    days = [each["date"] for each in measured["values"]]

    assert measured["type"] == "TOTAL_SESSIONS"
    assert days == [f"2024-03-0{n}" for n in range(1, 8)]
    assert measured["total"] == sum(each["value"] for each in measured["values"])
    assert measured["total"] == len(sandbox.answer({**DAYS, **ALL, "timezone": "Asia/Tokyo"}))


def test_counts_cover_62_days(wix: httpx.Client):
    """A range that starts on an older day is rejected, whatever its end is; the future is empty."""
    (measured,) = counts(wix, "2024-01-31", "2025-01-01").json()["data"]
    days = [each["date"] for each in measured["values"]]

    assert (days[0], days[-1], len(days)) == ("2024-01-31", "2024-04-01", 62)
    for end in ("2024-02-01", "2025-01-01"):
        rejected = counts(wix, "2024-01-30", end)
        assert violations(rejected) == {"dateRange.startDate": "VALIDATION"}


def test_six_types_of_measurement_are_accepted(wix: httpx.Client):
    """All but the number of sessions are empty."""
    names = (
        *("TOTAL_SESSIONS", "TOTAL_SALES", "TOTAL_ORDERS", "CLICKS_TO_CONTACT"),
        *("TOTAL_FORMS_SUBMITTED", "TOTAL_UNIQUE_VISITORS"),
    )
    params = [("dateRange.startDate", "2024-03-01"), ("dateRange.endDate", "2024-03-08")]
    params += [("measurementTypes", name) for name in names]
    sessions, *others = wix.get(DATA, params=params).json()["data"]

    assert [each["type"] for each in (sessions, *others)] == list(names)
    assert sessions["total"] > 0
    assert {(len(each["values"]), each["total"]) for each in others} == {(0, 0)}


def test_a_rule_makes_counts_differ_from_the_listing():
    """The counts are a little higher than the listing."""
    rules = Rules(counts_match=False)
    with running(WORLD, now=NOW, rules=rules) as sandbox, client(sandbox) as wix:
        (measured,) = counts(wix, "2024-03-01", "2024-03-08").json()["data"]
        true = len(sandbox.answer({**DAYS, **ALL}))

    assert true < measured["total"] < true * 1.2


def test_invalid_count_requests_are_rejected(wix: httpx.Client):
    """The measurement type, the dates and the time zone are validated."""
    assert violations(wix.get(DATA)) == {
        "measurementTypes": "INVALID_ENUM_VALUE",
        "dateRange.startDate": "FORMAT",
        "dateRange.endDate": "FORMAT",
    }
    assert violations(counts(wix, "2024-03-01", "2024-03-08", timeZone="Mars")) == {
        "timeZone": "VALIDATION"
    }


def test_sites_are_paged_by_cursor(sandbox: Sandbox):
    """The API key and the account ID list every site once, the main site first."""
    headers = {"authorization": sandbox.api_key, "wix-account-id": sandbox.account_id}
    ids, cursor = [], None
    with client(sandbox, **headers) as wix:
        while True:
            paging = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = wix.post(SITES, json={"query": {"cursorPaging": paging}}).json()
            ids += [site["id"] for site in page["sites"]]
            if not page["metadata"]["hasNext"]:
                break
            cursor = page["metadata"]["cursors"]["next"]
        unpaged = wix.post(SITES).json()
        unset = wix.post(SITES, json={"query": None}).json()

    assert len(ids) == len(set(ids)) == 5
    assert ids[0] == sandbox.site_id
    assert [site["id"] for site in unpaged["sites"]] == ids
    assert unset == unpaged


def test_sites_have_a_slug_and_a_display_name_and_can_be_filtered_and_sorted(sandbox: Sandbox):
    """`name` is the slug of the address, `displayName` what the owner calls the site."""
    headers = {"authorization": sandbox.api_key, "wix-account-id": sandbox.account_id}
    order = [{"fieldName": "displayName", "order": "DESC"}]
    with client(sandbox, **headers) as wix:
        (site,) = wix.post(SITES, json={"query": {"filter": {"displayName": "Shop 1"}}}).json()[
            "sites"
        ]
        backwards = wix.post(SITES, json={"query": {"sort": order}}).json()["sites"]

    name = f"site-{sandbox.site_id[:8]}"
    assert site == {"id": sandbox.site_id, "name": name, "displayName": "Shop 1"}
    assert [each["displayName"] for each in backwards] == [f"Shop {n}" for n in (5, 4, 3, 2, 1)]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"wix-account-id": "{0.account_id}"}, 401),
        ({"authorization": "{0.api_key}", "wix-site-id": "{0.site_id}"}, 403),
        ({"authorization": "{0.api_key}", "wix-account-id": "another"}, 403),
        (
            {
                "authorization": "{0.api_key}",
                "wix-account-id": "{0.account_id}",
                "wix-site-id": "{0.site_id}",
            },
            403,
        ),
        ({"authorization": "wrong", "wix-account-id": "{0.account_id}"}, 401),
    ],
)
def test_a_sites_request_needs_the_key_and_the_account_id(
    sandbox: Sandbox, headers: dict[str, str], status: int
):
    """A missing or invalid key is a 401, another wrong header a 403."""
    own = {name: value.format(sandbox) for name, value in headers.items()}
    with client(sandbox, **own) as wix:
        assert wix.post(SITES, json={}).status_code == status


@pytest.mark.parametrize(
    "query",
    [
        1,
        {"filter": 1},
        {"filter": {"color": "red"}},
        {"filter": {"displayName": ["Shop 1"]}},
        {"sort": {"fieldName": "name"}},
        {"sort": ["name"]},
        {"cursorPaging": 1},
        {"cursorPaging": {"limit": 101}},
        {"cursorPaging": {"limit": 0}},
        {"cursorPaging": {"cursor": "nowhere"}},
    ],
)
def test_invalid_sites_requests_are_rejected(sandbox: Sandbox, query: Any):
    """A page has 1 to 100 sites. The cursor must come from a response."""
    headers = {"authorization": sandbox.api_key, "wix-account-id": sandbox.account_id}
    with client(sandbox, **headers) as wix:
        assert violations(wix.post(SITES, json={"query": query}))


def test_every_site_has_its_own_sessions_and_jobs():
    """An additional site lists its own world and has no access to jobs of the main site."""
    other, world = (
        "0f4fd5b2-0000-4000-a000-000000000000",
        World.generate(seed=6, sessions=100, start=date(2024, 3, 1), days=5),
    )
    body = {**DAYS, **ALL}
    with running(WORLD, sites={other: world}) as sandbox, client(sandbox) as main:
        with client(sandbox, authorization=sandbox.api_key, **{"wix-site-id": other}) as wix:
            ids = poll(wix, submit(wix, body)).json()["result"]["sessionIds"]
            foreign = poll(wix, submit(main, body))
        assert set(ids) == sandbox.answer(body, site_id=other) == {e.id for e in world.sessions()}
        assert foreign.status_code == 404

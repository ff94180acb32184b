"""The sandbox's wire: every documented rule of the API, seen by a plain HTTP client."""

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
    """Field and violated rule of everything a 400 complains about."""
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


def test_pages_are_cut_by_limit_and_offset(wix: httpx.Client):
    """Pages follow each other without overlap, and end in an empty one."""
    job_id = submit(wix, {**DAYS, **ALL})
    whole = poll(wix, job_id).json()["result"]["sessionIds"]
    pages = [poll(wix, job_id, 100, offset).json()["result"] for offset in range(0, 1200, 100)]

    assert [each for page in pages for each in page["sessionIds"]] == whole
    assert {page["total"] for page in pages} == {len(whole)}
    assert pages[-1]["sessionIds"] == []


def test_a_job_takes_its_time():
    """Until it is finished it is IN_PROGRESS and shows no ids."""
    with running(WORLD, job_seconds=(0.1, 0.2)) as sandbox, client(sandbox) as wix:
        job_id = submit(wix, {**DAYS, **ALL})
        assert poll(wix, job_id).json() == {"result": {"jobStatus": "IN_PROGRESS"}}
        job = sandbox.jobs[job_id]
        assert 0.1 <= job.ready - job.submitted <= 0.2
        while (result := poll(wix, job_id).json()["result"])["jobStatus"] == "IN_PROGRESS":
            pass
        assert result["jobStatus"] == "FINISHED"


def test_the_documented_example_is_accepted(wix: httpx.Client):
    """Wix's own example body gets a job id, and another one the next time."""
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
            "conversionFunnel.exclude",
            "INVALID_ENUM_VALUE",
        ),
        ({**DAYS, "navigationFlow": []}, "navigationFlow", "FORMAT"),
        ({**DAYS, "navigationFlow": {}}, "navigationFlow.pageInteractions", "FORMAT"),
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
def test_a_body_that_is_not_documented_is_refused(
    sandbox: Sandbox, wix: httpx.Client, body: dict[str, Any], field: str, rule: str
):
    """400 with a validation error that names the field, and no job."""
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
def test_dates_are_days_of_the_calendar_in_order(
    wix: httpx.Client, start: Any, end: Any, wrong: dict[str, str]
):
    """YYYY-MM-DD, and the end, which is not included, after the start."""
    body = {**ALL, "customTimePeriod": {"startDate": start, "endDate": end}}

    assert violations(wix.post(LIST, json=body)) == {
        f"customTimePeriod.{name}": rule for name, rule in wrong.items()
    }


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null"])
def test_a_body_is_a_json_object(wix: httpx.Client, content: bytes):
    """Anything else is a 400."""
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
def test_all_three_parameters_of_a_result_are_required(
    wix: httpx.Client, params: dict[str, Any], wrong: dict[str, str]
):
    """Present, whole numbers, limit from 1 to 1000 and offset from 0."""
    assert violations(wix.get(RESULT, params=params)) == wrong


def test_a_page_cap_tells_its_threshold():
    """The largest limit is a switch, and the refusal says what it is."""
    with running(WORLD, rules=Rules(page_cap=50)) as sandbox, client(sandbox) as wix:
        job_id = submit(wix, {**DAYS, **ALL})
        refused = poll(wix, job_id, 51)

        assert poll(wix, job_id, 50).status_code == 200
        assert violations(refused) == {"limit": "MAX"}
        (found,) = refused.json()["details"]["validationError"]["fieldViolations"]
        assert found["data"] == {"threshold": 50}


@pytest.mark.parametrize("status", [404, 400, 200])
def test_an_unknown_job_has_a_switch(status: int):
    """404 by default; 200 says UNKNOWN_JOB_STATUS."""
    with running(WORLD, rules=Rules(unknown_job_status=status)) as sandbox, client(sandbox) as wix:
        answer = poll(wix, "a391a44f-b037-4344-b555-6f5be67c4123")

    assert answer.status_code == status
    if status == 200:
        assert answer.json() == {"result": {"jobStatus": "UNKNOWN_JOB_STATUS"}}
    else:
        assert answer.json()["details"]["applicationError"]["code"] == "JOB_NOT_FOUND"


def test_a_job_may_be_forgotten():
    """With a lifetime a job is unknown once it is over."""
    with running(WORLD, rules=Rules(job_lifetime_seconds=0)) as sandbox, client(sandbox) as wix:
        assert poll(wix, submit(wix, {**DAYS, **ALL})).status_code == 404


def test_marks_are_kept(sandbox: Sandbox, wix: httpx.Client):
    """Both calls answer an empty object, and may be repeated."""
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
def test_marks_are_checked(
    wix: httpx.Client, path: str, body: dict[str, Any], wrong: dict[str, str]
):
    """One id to record, 1 to 100 ids to delete."""
    assert violations(wix.post(path, json=body)) == wrong


def test_marks_of_unknown_or_repeated_sessions_have_switches():
    """404 for a session that never happened, 409 for one that is marked already."""
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
        ({}, 403),
        ({"wix-site-id": "{0.site_id}"}, 403),
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
    ids=["nothing", "no key", "no site", "another's site", "account too", "wrong", "Bearer"],
)
def test_a_site_is_asked_with_a_raw_key_and_its_id(
    sandbox: Sandbox, method: str, path: str, headers: dict[str, str], status: int
):
    """A missing or forbidden header is a 403 with an empty body, a wrong key a 401."""
    own = {name: value.format(sandbox) for name, value in headers.items()}
    answer = httpx.request(method, sandbox.url + path, headers=own, verify=False)

    assert answer.status_code == status
    assert (answer.json() == EMPTY) == (status == 403)


def test_an_app_mints_a_token_and_asks_without_a_site(sandbox: Sandbox):
    """The token goes raw, alone; a site beside it is refused."""
    with client(sandbox, accept="*/*") as wix:
        minted = wix.post(TOKEN, json=credentials(sandbox)).json()
    token = minted.pop("access_token")

    assert minted == {"token_type": "Bearer", "expires_in": 14_400}
    for headers, status in [
        ({}, 200),
        ({"wix-site-id": sandbox.site_id}, 403),
        ({"wix-account-id": sandbox.account_id}, 403),
    ]:
        with client(sandbox, authorization=token, **headers) as app:
            assert app.post(LIST, json={**DAYS, **ALL}).status_code == status
    with client(sandbox, authorization=f"Bearer {token}") as app:
        assert app.post(LIST, json={**DAYS, **ALL}).status_code == 401


def test_a_token_ends():
    """After its four hours on the server's clock it is a 401, and a new one works."""
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
    """Two fields, `error` and `error_description`."""
    with client(sandbox, accept="*/*") as wix:
        answer = wix.post(TOKEN, json=credentials(sandbox, **changed))

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json()["error_description"]


def test_every_answer_has_its_own_request_id(sandbox: Sandbox, wix: httpx.Client):
    """Also errors, unknown paths and wrong methods."""
    answers = [
        wix.post(LIST, json={**DAYS, **ALL}),
        wix.post(LIST, json={}),
        wix.get("/nowhere"),
        wix.get(LIST),
        httpx.get(sandbox.url + RESULT, verify=False),
    ]

    assert [each.status_code for each in answers] == [200, 400, 404, 405, 403]
    assert len({each.headers["x-wix-request-id"] for each in answers}) == 5


def test_the_budget_is_a_sliding_minute_of_each_site():
    """The request after the last one is a 429, whoever asks; another site has its own budget."""
    other = "0f4fd5b2-0000-4000-a000-000000000000"
    with running(WORLD, requests_per_minute=3, sites={other: World()}) as sandbox:
        with client(sandbox) as wix:
            statuses = [wix.get(PROPERTIES).status_code for _ in range(5)]
        with client(sandbox, authorization=sandbox.api_key, **{"wix-site-id": other}) as wix:
            beside = wix.get(PROPERTIES).status_code

    assert (statuses, beside) == ([200, 200, 200, 429, 429], 200)


def test_the_site_s_zone_is_told_when_asked_for(wix: httpx.Client):
    """Site Properties answers the fields asked for."""
    asked = wix.get(PROPERTIES, params={"fields.paths": "timeZone"})

    assert asked.json() == {"properties": {"timeZone": "Asia/Jerusalem"}}
    assert wix.get(PROPERTIES, params={"fields.paths": "email"}).json() == {"properties": {}}


def test_the_site_s_zone_may_be_missing():
    """A switch."""
    rules = Rules(site_timezone_known=False)
    with running(WORLD, rules=rules) as sandbox, client(sandbox) as wix:
        asked = wix.get(PROPERTIES, params={"fields.paths": "timeZone"})

    assert asked.json() == {"properties": {}}


def counts(wix: httpx.Client, start: str, end: str, **more: str) -> httpx.Response:
    dates = {"dateRange.startDate": start, "dateRange.endDate": end}
    return wix.get(DATA, params={"measurementTypes": "TOTAL_SESSIONS", **dates, **more})


def test_session_counts_agree_with_the_listing(sandbox: Sandbox, wix: httpx.Client):
    """One value a day, half-open, in the zone asked for."""
    (measured,) = counts(wix, "2024-03-01", "2024-03-08", timeZone="Asia/Tokyo").json()["data"]
    days = [each["date"] for each in measured["values"]]

    assert measured["type"] == "TOTAL_SESSIONS"
    assert days == [f"2024-03-0{n}" for n in range(1, 8)]
    assert measured["total"] == sum(each["value"] for each in measured["values"])
    assert measured["total"] == len(sandbox.answer({**DAYS, **ALL, "timezone": "Asia/Tokyo"}))


def test_counts_are_kept_for_62_days(wix: httpx.Client):
    """Older days, and days to come, have no value."""
    (measured,) = counts(wix, "2023-01-01", "2025-01-01").json()["data"]
    days = [each["date"] for each in measured["values"]]

    assert (days[0], days[-1], len(days)) == ("2024-01-31", "2024-04-01", 62)


def test_counts_need_not_agree():
    """A switch: a few more than are listed."""
    rules = Rules(counts_match=False)
    with running(WORLD, now=NOW, rules=rules) as sandbox, client(sandbox) as wix:
        (measured,) = counts(wix, "2024-03-01", "2024-03-08").json()["data"]
        true = len(sandbox.answer({**DAYS, **ALL}))

    assert true < measured["total"] < true * 1.2


def test_count_requests_are_checked(wix: httpx.Client):
    """The measurement, the dates and the zone."""
    assert violations(wix.get(DATA)) == {
        "measurementTypes": "INVALID_ENUM_VALUE",
        "dateRange.startDate": "FORMAT",
        "dateRange.endDate": "FORMAT",
    }
    assert violations(counts(wix, "2024-03-01", "2024-03-08", timeZone="Mars")) == {
        "timeZone": "VALIDATION"
    }


def test_sites_are_paged_by_cursor(sandbox: Sandbox):
    """The account's key and id list every site once, the main one first."""
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
        everything = wix.post(SITES, json={}).json()

    assert len(ids) == len(set(ids)) == 5
    assert ids[0] == sandbox.site_id
    assert [site["id"] for site in everything["sites"]] == ids


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"wix-account-id": "{0.account_id}"}, 403),
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
def test_sites_need_the_account(sandbox: Sandbox, headers: dict[str, str], status: int):
    """Account level is the key with wix-account-id, and no site."""
    own = {name: value.format(sandbox) for name, value in headers.items()}
    with client(sandbox, **own) as wix:
        assert wix.post(SITES, json={}).status_code == status


@pytest.mark.parametrize(
    "query",
    [
        1,
        {"filter": {}},
        {"cursorPaging": 1},
        {"cursorPaging": {"limit": 101}},
        {"cursorPaging": {"limit": 0}},
        {"cursorPaging": {"cursor": "nowhere"}},
    ],
)
def test_site_queries_are_checked(sandbox: Sandbox, query: Any):
    """1 to 100 sites a page, and a cursor that was handed out."""
    headers = {"authorization": sandbox.api_key, "wix-account-id": sandbox.account_id}
    with client(sandbox, **headers) as wix:
        assert violations(wix.post(SITES, json={"query": query}))


def test_every_site_has_its_own_sessions_and_jobs():
    """A further site lists its own world, and does not see the main site's jobs."""
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

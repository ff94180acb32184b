"""Query results of the sandbox over HTTP, compared with an independent evaluation."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from prefect_wix.sandbox import Rules, Sandbox, Session, World, running

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = {"deviceType": {"type": "ALL"}}
NOW = datetime(2024, 5, 15, 9, 30, tzinfo=UTC)  # a Wednesday
WORLD = World.generate(
    seed=3, sessions=4000, start=date(2023, 1, 1), end=date(2024, 5, 17), without_device=0.1
)
FUNNEL = {
    "SITE_SESSIONS": 0,
    "VIEWED_PRODUCT": 1,
    "ADDED_TO_CART": 2,
    "REACHED_CHECKOUT": 3,
    "SESSIONS_CONVERTED": 4,
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running(WORLD, now=NOW) as sandbox:
        yield sandbox


def listed(sandbox: Sandbox, body: dict[str, Any]) -> list[str]:
    """All ids of one job, page by page."""
    headers = {"authorization": sandbox.api_key, "wix-site-id": sandbox.site_id}
    with httpx.Client(base_url=sandbox.url, headers=headers, verify=False) as wix:
        job_id = wix.post("/analytics/v1/sessions/list/async", json=body).json()["jobId"]
        ids: list[str] = []
        while True:
            params = {"jobId": job_id, "limit": 700, "offset": len(ids)}
            page = wix.get("/analytics/v1/sessions/list/result", params=params).json()["result"]
            ids += page["sessionIds"]
            if len(ids) >= page["total"]:
                return ids


def days(start: str, end: str, **more: Any) -> dict[str, Any]:
    return {"customTimePeriod": {"startDate": start, "endDate": end}, **more}


def brute_force(body: dict[str, Any]) -> set[str]:
    """Evaluate a query as documented, one session at a time."""
    zone = ZoneInfo(body.get("timezone", "Asia/Jerusalem"))
    period = body["customTimePeriod"]
    return {
        each.id
        for each in WORLD.sessions()
        if period["startDate"] <= each.arrival.astimezone(zone).strftime("%F") < period["endDate"]
        and each.arrival <= NOW
        and matches(each, body)
    }


def matches(session: Session, body: dict[str, Any]) -> bool:
    if device := body.get("deviceType"):
        return device["type"] in {"ALL", session.device}
    if funnel := body.get("conversionFunnel"):
        reached = {step for step, depth in FUNNEL.items() if depth <= FUNNEL[session.depth]}
        return (
            funnel.get("include", "SITE_SESSIONS") in reached
            and funnel.get("exclude") not in reached
        )
    pages = [*session.pages, "__DROP__"]
    pattern = body["navigationFlow"]["pageInteractions"]
    return len(pattern) <= len(pages) and all(
        wanted == page if wanted else page != "__DROP__"
        for wanted, page in zip(pattern, pages, strict=False)
    )


FILTERS: list[dict[str, Any]] = [
    *({"deviceType": {"type": device}} for device in ("ALL", "DESKTOP", "MOBILE", "TABLET")),
    *({"conversionFunnel": {"include": step}} for step in FUNNEL),
    *({"conversionFunnel": {"exclude": step}} for step in FUNNEL),
    {"conversionFunnel": {"include": "ADDED_TO_CART", "exclude": "SESSIONS_CONVERTED"}},
    *(
        {"navigationFlow": {"pageInteractions": pattern}}
        for pattern in (
            ["/{Homepage}"],
            ["/{Homepage}", "__DROP__"],
            ["", "", "__DROP__"],
            ["", "/shop"],
            ["/{Homepage}", "", "/about"],
            ["__DROP__"],
            ["__DROP__", "/shop"],
            ["/nowhere"],
            [""] * 40,
        )
    ),
]


@pytest.mark.parametrize("chosen", FILTERS, ids=str)
def test_every_filter_matches_the_documented_sessions(sandbox: Sandbox, chosen: dict[str, Any]):
    """A listing contains the independently evaluated sessions, each once."""
    body = days("2024-03-01", "2024-05-20", **chosen)
    ids = listed(sandbox, body)

    assert len(ids) == len(set(ids))
    assert set(ids) == brute_force(body) == sandbox.answer(body)


@pytest.mark.parametrize("zone", ["Asia/Jerusalem", "America/Los_Angeles", "Pacific/Kiritimati"])
@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2024-03-28", "2024-03-31"),
        ("2023-10-29", "2023-10-30"),
        ("2024-05-14", "2024-05-17"),
        ("1999-01-01", "1999-02-01"),
        ("2030-01-01", "2031-01-01"),
    ],
)
def test_a_day_is_a_local_day_in_the_time_zone(sandbox: Sandbox, zone: str, start: str, end: str):
    """Half-open local days, also with 23 or 25 hours, without sessions of the future."""
    body = days(start, end, timezone=zone, **ALL)

    assert set(listed(sandbox, body)) == brute_force(body)


def test_the_default_time_zone_is_the_zone_of_the_site(sandbox: Sandbox):
    """A query without a time zone equals a query with the site's time zone."""
    plain = days("2024-03-28", "2024-03-29", **ALL)

    assert sandbox.answer(plain) == sandbox.answer({**plain, "timezone": "Asia/Jerusalem"})
    assert sandbox.answer(plain) != sandbox.answer({**plain, "timezone": "Asia/Tokyo"})


def test_the_days_of_a_range_are_disjoint_and_complete(sandbox: Sandbox):
    """Each session of a range belongs to exactly one of its days."""
    first = date(2024, 3, 25)
    each = [
        sandbox.answer(
            days(str(first + timedelta(days=n)), str(first + timedelta(days=n + 1)), **ALL)
        )
        for n in range(10)
    ]

    assert sum(map(len, each)) == len(set().union(*each)) > 0
    assert set().union(*each) == sandbox.answer(days("2024-03-25", "2024-04-04", **ALL))


PERIODS = {
    "TODAY": ("2024-05-15", "2024-05-16"),
    "YESTERDAY": ("2024-05-14", "2024-05-15"),
    "LAST_7_DAYS": ("2024-05-09", "2024-05-16"),
    "LAST_14_DAYS": ("2024-05-02", "2024-05-16"),
    "LAST_28_DAYS": ("2024-04-18", "2024-05-16"),
    "LAST_30_DAYS": ("2024-04-16", "2024-05-16"),
    "LAST_90_DAYS": ("2024-02-16", "2024-05-16"),
    "LAST_180_DAYS": ("2023-11-18", "2024-05-16"),
    "LAST_365_DAYS": ("2023-05-17", "2024-05-16"),
    "THIS_WEEK": ("2024-05-13", "2024-05-16"),
    "THIS_MONTH": ("2024-05-01", "2024-05-16"),
    "THIS_QUARTER": ("2024-04-01", "2024-05-16"),
    "THIS_YEAR": ("2024-01-01", "2024-05-16"),
    "LAST_WEEK": ("2024-05-06", "2024-05-13"),
    "LAST_MONTH": ("2024-04-01", "2024-05-01"),
    "LAST_QUARTER": ("2024-01-01", "2024-04-01"),
    "LAST_YEAR": ("2023-01-01", "2024-01-01"),
    "LAST_12_MONTHS": ("2023-05-01", "2024-05-01"),
}


@pytest.mark.parametrize("name", PERIODS)
def test_every_predefined_period_is_a_range_of_days(sandbox: Sandbox, name: str):
    """On 2024-05-15, each of the 18 names lists the days in `PERIODS`."""
    ids = listed(sandbox, {"predefinedTimePeriod": name, **ALL})

    assert set(ids) == brute_force(days(*PERIODS[name], **ALL)) != set()


def test_today_is_a_day_in_the_time_zone_of_the_query(sandbox: Sandbox):
    """When it is the 15th at the site it is still the 14th in Honolulu."""
    body = {"predefinedTimePeriod": "TODAY", "timezone": "Pacific/Honolulu", **ALL}

    assert sandbox.answer(body) == brute_force(
        days("2024-05-14", "2024-05-15", timezone="Pacific/Honolulu", **ALL)
    )


def test_last_n_days_may_end_yesterday():
    """`last_n_days_includes_today` is a rule because Wix does not document it."""
    with running(WORLD, now=NOW, rules=Rules(last_n_days_includes_today=False)) as sandbox:
        ids = listed(sandbox, {"predefinedTimePeriod": "LAST_7_DAYS", **ALL})

    assert set(ids) == brute_force(days("2024-05-08", "2024-05-15", **ALL))


def evening() -> World:
    """Two sessions that begin before midnight; one of them ends after it."""
    midnight, minute = datetime(2024, 1, 2, tzinfo=UTC), timedelta(minutes=1)
    over = Session(id="over", arrival=midnight - minute, end=midnight + minute)
    early = Session(id="early", arrival=midnight - 60 * minute, end=midnight - minute)
    return World([over, early])


@pytest.mark.parametrize(("midnight", "second_day"), [("start", set[str]()), ("both", {"over"})])
def test_a_rule_sets_the_days_of_a_session_that_crosses_midnight(
    midnight: Any, second_day: set[str]
):
    """It is listed on the day of its arrival or on both days."""
    with running(evening(), rules=Rules(midnight=midnight)) as sandbox:
        assert set(listed(sandbox, days("2024-01-01", "2024-01-02", **ALL))) == {"over", "early"}
        assert set(listed(sandbox, days("2024-01-02", "2024-01-03", **ALL))) == second_day


@pytest.mark.parametrize("order", ["random", "id", "arrival"])
def test_a_rule_sets_the_order_of_ids_which_is_stable(order: Any):
    """Every job of a query has the same order."""
    body = days("2024-03-01", "2024-05-01", **ALL)
    with running(WORLD, rules=Rules(sort=order)) as sandbox:
        ids, second_ids = listed(sandbox, body), listed(sandbox, body)

    by_arrival = [each.id for each in WORLD.sessions() if each.id in set(ids)]
    assert ids == second_ids
    assert (ids == by_arrival) == (order == "arrival")
    assert (ids == sorted(ids)) == (order == "id")


def test_a_rule_limits_listings_to_recorded_sessions():
    """Only sessions marked as recorded and not as deleted are listed."""
    body = days("2024-03-01", "2024-05-01", **ALL)
    with running(WORLD, rules=Rules(recorded_only=True)) as sandbox:
        assert listed(sandbox, body) == []
        first, second, *_ = sorted(brute_force(body))
        sandbox.recorded.update({first, second, "nobody"})
        sandbox.deleted.add(second)
        assert listed(sandbox, body) == [first]

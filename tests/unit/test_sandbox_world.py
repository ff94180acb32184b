"""The worlds of the sandbox: generated traffic, click-streams and explicit sessions."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from hashlib import md5
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from prefect_wix.sandbox import Session, World
from prefect_wix.sandbox.sessions import STEPS

CLICKS = Path(__file__).parents[3] / "shared/data/clickstream-2019-10-01.csv.gz"
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def shop() -> World:
    return World.generate(seed=1, sessions=20_000, start=date(2024, 3, 20), days=20)


def test_the_same_seed_makes_the_same_world():
    """Equal arguments give equal sessions; another seed gives other sessions."""
    worlds = [World.generate(seed, sessions=50, start=date(2024, 1, 1)) for seed in (1, 1, 2)]
    first, same, other = (list(world.sessions()) for world in worlds)

    assert first == same
    assert {each.id for each in first}.isdisjoint(each.id for each in other)


@pytest.mark.parametrize("sessions", [0, 1, 7, 20_011])
def test_a_world_has_exactly_the_requested_number_of_sessions(sessions: int):
    """The number is exact and the IDs are unique."""
    world = World.generate(sessions=sessions, days=3, start=date(2024, 1, 1))

    assert len(world) == sessions == len({each.id for each in world.sessions()})


def test_sessions_arrive_in_order_on_the_requested_local_days(shop: World):
    """All arrive on the local days `[start, end)`, also across a clock change."""
    zone = ZoneInfo("Asia/Jerusalem")
    arrivals = [each.arrival for each in shop.sessions()]
    days = Counter(each.astimezone(zone).date() for each in arrivals)

    assert arrivals == sorted(arrivals)
    assert set(days) == {date(2024, 3, 20) + timedelta(days=n) for n in range(20)}


def test_the_end_and_the_number_of_days_determine_the_start():
    """World.generate(end=, days=) generates the days before `end`."""
    world = World.generate(sessions=500, days=2, end=date(2024, 1, 3), timezone="UTC")

    assert {each.arrival.day for each in world.sessions()} == {1, 2}


def test_without_dates_the_last_day_is_today():
    """The default world ends with the current day."""
    world = World.generate(sessions=500, days=2, timezone="UTC")
    today = datetime.now(UTC).date()

    assert today - timedelta(days=1) in {each.arrival.date() for each in world.sessions()}


def test_traffic_looks_like_a_shop(shop: World):
    """Few sessions at night, most on phones, a narrowing funnel, and some cross midnight."""
    zone = ZoneInfo("Asia/Jerusalem")
    sessions = list(shop.sessions())
    hours = Counter(each.arrival.astimezone(zone).hour for each in sessions)
    devices = Counter(each.device for each in sessions)
    depths = Counter(each.depth for each in sessions)
    crossing = [
        each
        for each in sessions
        if each.arrival.astimezone(zone).date() < each.end.astimezone(zone).date()
    ]

    assert hours[20] > 5 * hours[3]
    assert devices["MOBILE"] > devices["DESKTOP"] > devices["TABLET"] > 0
    assert devices[None] == 0
    assert sum(each.pages[0] == "/{Homepage}" for each in sessions) > len(sessions) / 2
    assert [depths[step] for step in STEPS] == sorted(depths.values(), reverse=True)
    assert len(crossing) > 5


def test_some_sessions_may_have_no_device():
    """The share of sessions without a device is `without_device`."""
    world = World.generate(sessions=10_000, start=date(2024, 1, 1), without_device=0.25)

    assert sum(each.device is None for each in world.sessions()) == pytest.approx(2500, abs=250)


def test_a_world_may_contain_explicit_sessions():
    """The sessions are unchanged and ordered by arrival."""
    late = Session(id="b", arrival=NOON, end=NOON, device=None, depth="ADDED_TO_CART")
    early = Session(
        id="a",
        arrival=NOON - timedelta(hours=1),
        end=NOON,
        device="TABLET",
        pages=("/{Homepage}", "/about"),
    )

    assert list(World([late, early]).sessions()) == [early, late]


@pytest.mark.parametrize(
    "world",
    [
        World.generate(sessions=300, start=date(2024, 1, 1)),
        World([Session(id=name, arrival=NOON, end=NOON) for name in ("x", "y")]),
    ],
    ids=["generated", "explicit"],
)
def test_find_returns_the_index_of_an_id(world: World):
    """An unknown ID has no index."""
    assert [world.find(each.id) for each in world.sessions()] == list(range(len(world)))
    unknown = ["", "nobody", "00000000-0000-4000-a000-000000000000"]
    assert [world.find(each) for each in unknown] == [None, None, None]


def test_an_id_after_the_last_session_is_unknown():
    """A larger world with the same seed has the same first IDs."""
    small, large = (World.generate(sessions=n, start=date(2024, 1, 1)) for n in (10, 11))

    assert small.session(9).id == large.session(9).id
    assert small.find(large.session(10).id) is None


def test_events_become_sessions(tmp_path: Path):
    """Pages are in order of time and then of the file. The depth is the deepest event."""
    file = tmp_path / "events.csv"
    file.write_text(
        "event_time,event_type,product_id,user_session\n"
        "2019-10-01 10:00:05 UTC,cart,1,s1\n"
        "2019-10-01 10:00:00 UTC,view,1,s1\n"
        "2019-10-01 10:00:05 UTC,view,2,s1\n"
        "2019-10-01 09:00:00 UTC,purchase,3,s2\n"
        "2019-10-01 09:00:00 UTC,view,3,\n"
        "2019-10-01 09:00:00 UTC,remove_from_cart,3,s3\n"
    )

    second, first = World.from_events(file, timezone="Asia/Jerusalem").sessions()

    assert first.pages == ("/product-page/1", "/cart-page", "/product-page/2")
    assert (first.depth, second.depth) == ("ADDED_TO_CART", "SESSIONS_CONVERTED")
    assert first.arrival == datetime(2019, 10, 1, 10, tzinfo=UTC)
    assert first.end - first.arrival == timedelta(seconds=5)


@pytest.mark.skipif(not CLICKS.exists(), reason="the click-stream file of a real shop is missing")
def test_a_real_click_stream_is_read_completely():
    """The file has 1,906 sessions. The device is computed from the ID."""
    world = World.from_events(CLICKS)
    sessions = list(world.sessions())
    digits = {(md5(each.id.encode()).hexdigest()[0], each.device) for each in sessions}

    assert len(sessions) == 1906
    assert sum(len(each.pages) for each in sessions) == 5019
    assert digits == {
        *((digit, "MOBILE") for digit in "01234567"),
        *((digit, "DESKTOP") for digit in "89abcd"),
        *((digit, "TABLET") for digit in "ef"),
    }
    assert Counter(each.depth for each in sessions).keys() == {
        "VIEWED_PRODUCT",
        "ADDED_TO_CART",
        "SESSIONS_CONVERTED",
    }

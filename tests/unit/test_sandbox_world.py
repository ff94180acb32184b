"""The sandbox's truth: made-up traffic, click-streams and explicit sessions."""

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
    """The same arguments give the same sessions, another seed gives others."""
    worlds = [World.generate(seed, sessions=50, start=date(2024, 1, 1)) for seed in (1, 1, 2)]
    first, same, other = (list(world.sessions()) for world in worlds)

    assert first == same
    assert {each.id for each in first}.isdisjoint(each.id for each in other)


@pytest.mark.parametrize("sessions", [0, 1, 7, 20_011])
def test_a_world_has_exactly_the_number_of_sessions_asked_for(sessions: int):
    """Every number is met exactly, with unique ids."""
    world = World.generate(sessions=sessions, days=3, start=date(2024, 1, 1))

    assert len(world) == sessions == len({each.id for each in world.sessions()})


def test_sessions_arrive_in_order_on_the_local_days_asked_for(shop: World):
    """All arrive within [start, end) of local days, ascending, also across a clock change."""
    zone = ZoneInfo("Asia/Jerusalem")
    arrivals = [each.arrival for each in shop.sessions()]
    days = Counter(each.astimezone(zone).date() for each in arrivals)

    assert arrivals == sorted(arrivals)
    assert set(days) == {date(2024, 3, 20) + timedelta(days=n) for n in range(20)}


def test_an_end_and_a_number_of_days_give_the_start():
    """World.generate(end=, days=) ends before `end`."""
    world = World.generate(sessions=500, days=2, end=date(2024, 1, 3), timezone="UTC")

    assert {each.arrival.day for each in world.sessions()} == {1, 2}


def test_without_dates_the_last_day_is_today():
    """The default world moves with the calendar."""
    world = World.generate(sessions=500, days=2, timezone="UTC")
    today = datetime.now(UTC).date()

    assert today - timedelta(days=1) in {each.arrival.date() for each in world.sessions()}


def test_traffic_looks_like_a_shop(shop: World):
    """Quiet nights, phones ahead, home first, a narrowing funnel, and some cross midnight."""
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


def test_some_visitors_may_have_no_device():
    """The share of sessions without a device is the one asked for."""
    world = World.generate(sessions=10_000, start=date(2024, 1, 1), without_device=0.25)

    assert sum(each.device is None for each in world.sessions()) == pytest.approx(2500, abs=250)


def test_a_world_can_be_given_session_by_session():
    """Explicit sessions come back as they went in, ordered by arrival."""
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
    ids=["generated", "given"],
)
def test_an_id_leads_back_to_its_session(world: World):
    """find() undoes the id, and knows nobody else's."""
    assert [world.find(each.id) for each in world.sessions()] == list(range(len(world)))
    strangers = ["", "nobody", "00000000-0000-4000-a000-000000000000"]
    assert [world.find(each) for each in strangers] == [None, None, None]


def test_an_id_beyond_the_last_session_is_nobodys():
    """A larger world of the same seed has the same first ids; the smaller one ends earlier."""
    small, large = (World.generate(sessions=n, start=date(2024, 1, 1)) for n in (10, 11))

    assert small.session(9).id == large.session(9).id
    assert small.find(large.session(10).id) is None


def test_events_become_visits(tmp_path: Path):
    """Times order the pages, ties keep the file's order, the deepest event is the depth."""
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


@pytest.mark.skipif(not CLICKS.exists(), reason="the click-stream of a real shop is not here")
def test_a_real_click_stream_is_read_whole():
    """1,906 real visits, each with its device computed from its id."""
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

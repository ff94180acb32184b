"""What a session is, and where sessions come from: made-up traffic or a click-stream file.

Made-up visits are drawn from one seeded generator. Their shares are plausible, not measured.
"""

from __future__ import annotations

import csv
import gzip
from array import array
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import md5
from random import Random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from os import PathLike
    from typing import TextIO
    from zoneinfo import ZoneInfo

STEPS = (
    "SITE_SESSIONS",
    "VIEWED_PRODUCT",
    "ADDED_TO_CART",
    "REACHED_CHECKOUT",
    "SESSIONS_CONVERTED",
)
"""The funnel, outermost step first. A session that reached a step reached all before it."""

DEVICES = ("DESKTOP", "MOBILE", "TABLET")
HOME_PAGE = "/{Homepage}"
NO_DEVICE = len(DEVICES)

_COLUMNS = {"event_time", "event_type", "product_id", "user_session"}
_EVENT_STEPS = {"view": 1, "cart": 2, "purchase": 4}

_BY_HOUR = (3, 2, 1, 1, 1, 1, 2, 4, 6, 7, 8, 8, 8, 8, 8, 8, 8, 8, 9, 10, 11, 11, 9, 6)
_BY_WEEKDAY = (1.0, 0.97, 0.98, 1.02, 1.1, 0.8, 0.9)
_DEVICE_SHARES = {"DESKTOP": 0.34, "TABLET": 0.05}  # the rest is MOBILE
_DEPTH_SHARES = (58, 26, 9, 5, 2)
_BROWSES_ON = 0.55
# A visit is one of so many drawn journeys. A power of two, so that random bits choose evenly.
_JOURNEYS = 2048

_ENTRIES = (HOME_PAGE,) * 7 + ("/shop", "/blog", "/category/lamps")
_BROWSED = (HOME_PAGE, "/shop", "/category/lamps", "/category/rugs", "/about", "/blog", "/contact")
_PRODUCTS = tuple(f"/product-page/{word}-{n}" for word in ("lamp", "rug", "vase") for n in range(8))
_FUNNEL_PAGES = ("/cart-page", "/checkout", "/thank-you-page")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One visit. Instants are aware datetimes, kept to the whole second."""

    id: str
    arrival: datetime
    end: datetime
    device: str | None = "DESKTOP"
    """One of `DEVICES`, or None when the visitor's device is not known."""
    pages: tuple[str, ...] = (HOME_PAGE,)
    """The pages in the order of the visit."""
    depth: str = "SITE_SESSIONS"
    """The deepest of `STEPS` that the visit reached."""


class Journey(NamedTuple):
    """What many sessions have in common: the pages, and the index in `STEPS` that they led to."""

    pages: tuple[str, ...]
    depth: int


class SessionTable:
    """Sessions in compact columns in order of arrival, about 18 bytes each."""

    def __init__(self, ordered: Sequence[Session]) -> None:
        self.arrivals = array("q", (int(each.arrival.timestamp()) for each in ordered))
        """Seconds since 1970-01-01 UTC, ascending."""
        self.durations = array("I", map(_seconds, ordered))
        """Seconds from arrival to end."""
        self.devices = bytearray(map(_device_code, ordered))
        """Index in `DEVICES`, or one past it for no device."""
        self.journey_table: list[Journey] = []
        self.journeys = array("I")
        """Index in `journey_table`."""
        self._enter(Journey(each.pages, STEPS.index(each.depth)) for each in ordered)

    def _enter(self, journeys: Iterable[Journey]) -> None:
        numbers: defaultdict[Journey, int] = defaultdict(lambda: len(numbers))
        self.journeys.extend(numbers[journey] for journey in journeys)
        self.journey_table = list(numbers)

    def __len__(self) -> int:
        return len(self.arrivals)


def _device_code(session: Session) -> int:
    return NO_DEVICE if session.device is None else DEVICES.index(session.device)


def _seconds(session: Session) -> int:
    return int(session.end.timestamp()) - int(session.arrival.timestamp())


def visits(path: str | PathLike[str]) -> Iterator[Session]:
    """Read a CSV file, or .csv.gz; the mapping is told at `World.from_events`."""
    events: defaultdict[str, list[_Event]] = defaultdict(list)
    with _text(path) as file:
        rows = csv.DictReader(file)
        if missing := _COLUMNS.difference(rows.fieldnames or ()):
            raise ValueError(f"{path} has no column {', '.join(sorted(missing))}.")
        for row in rows:
            if row["user_session"] and row["event_type"] in _EVENT_STEPS:
                events[row["user_session"]].append(_event(row))
    for name, seen in events.items():
        yield _visit(name, seen)


class _Event(NamedTuple):
    time: datetime
    step: int
    page: str


def _text(path: str | PathLike[str]) -> TextIO:
    opener = gzip.open if str(path).endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8", newline="")


def _event(row: dict[str, str]) -> _Event:
    time = datetime.fromisoformat(row["event_time"].removesuffix(" UTC"))
    pages = {"view": f"/product-page/{row['product_id']}", "cart": "/cart-page"}
    return _Event(
        time if time.tzinfo else time.replace(tzinfo=UTC),
        _EVENT_STEPS[row["event_type"]],
        pages.get(row["event_type"], "/thank-you-page"),
    )


def _visit(name: str, events: list[_Event]) -> Session:
    events.sort(key=lambda event: event.time)
    return Session(
        id=name,
        arrival=events[0].time,
        end=events[-1].time,
        device=_device_of(name),
        pages=tuple(event.page for event in events),
        depth=STEPS[max(event.step for event in events)],
    )


def _device_of(name: str) -> str:
    digit = md5(name.encode(), usedforsecurity=False).hexdigest()[0]
    return "MOBILE" if digit <= "7" else "DESKTOP" if digit <= "d" else "TABLET"


class _Hour(NamedTuple):
    start: int
    seconds: int
    weight: float


def shop_traffic(
    world: SessionTable,
    zone: ZoneInfo,
    seed: int,
    sessions: int,
    days: tuple[date, date],
    without_device: float,
) -> None:
    """Add so many sessions to an empty world, arriving on the half-open range of local days."""
    random = Random(seed)  # noqa: S311
    drawn = [_journey(random) for _ in range(_JOURNEYS)]
    numbers = {journey: number for number, journey in enumerate(dict.fromkeys(drawn))}
    world.journey_table = list(numbers)
    choice = [numbers[journey] for journey in drawn]
    devices = _device_bytes(without_device)
    for start, length, count in _arrivals(random, sessions, days, zone):
        draw = random.random
        world.arrivals.extend(sorted(start + int(draw() * length) for _ in range(count)))
        world.devices += random.randbytes(count).translate(devices)
        bits = array("H", random.randbytes(2 * count))
        world.journeys.extend(choice[number % _JOURNEYS] for number in bits)
    _stay(world, random)


def _stay(world: SessionTable, random: Random) -> None:
    pages = [len(journey.pages) for journey in world.journey_table]
    seconds = random.randbytes(len(world))
    world.durations.extend(
        pages[journey] * spent for journey, spent in zip(world.journeys, seconds, strict=True)
    )


def _arrivals(
    random: Random, sessions: int, days: tuple[date, date], zone: ZoneInfo
) -> Iterator[tuple[int, int, int]]:
    """Share the sessions out: (first second, seconds, sessions) of each hour, summing exactly."""
    hours = list(_hours(random, days, zone))
    total = sum(hour.weight for hour in hours)
    passed, given = 0.0, 0
    for hour in hours:
        passed += hour.weight
        due = round(sessions * passed / total)
        yield hour.start, hour.seconds, due - given
        given = due


def _hours(random: Random, days: tuple[date, date], zone: ZoneInfo) -> Iterator[_Hour]:
    first, end = days
    for number in range((end - first).days):
        day = first + timedelta(days=number)
        busy = _BY_WEEKDAY[day.weekday()] * random.uniform(0.85, 1.15)
        midnight, next_midnight = (
            int(datetime(each.year, each.month, each.day, tzinfo=zone).timestamp())
            for each in (day, day + timedelta(days=1))
        )
        for start in range(midnight, next_midnight, 3600):
            seconds = min(3600, next_midnight - start)
            hour = datetime.fromtimestamp(start, zone).hour
            yield _Hour(start, seconds, busy * _BY_HOUR[hour] * seconds)


def _device_bytes(without_device: float) -> bytes:
    """Which device each value of a random byte means."""
    table = bytearray([DEVICES.index("MOBILE")]) * 256
    shares = [*_DEVICE_SHARES.values(), without_device]
    codes = [*map(DEVICES.index, _DEVICE_SHARES), NO_DEVICE]
    at = 0
    for code, share in zip(codes, shares, strict=True):
        width = round(share * 256)
        table[at : at + width] = bytes([code]) * width
        at += width
    return bytes(table[:256])


def _journey(random: Random) -> Journey:
    depth = random.choices(range(len(_DEPTH_SHARES)), _DEPTH_SHARES)[0]
    pages = [random.choice(_ENTRIES)]
    while random.random() < _BROWSES_ON:
        pages.append(random.choice(_BROWSED))
    if depth:
        pages += random.choices(_PRODUCTS, k=random.randint(1, 3))
    pages += _FUNNEL_PAGES[: max(0, depth - 1)]
    return Journey(tuple(pages), depth)

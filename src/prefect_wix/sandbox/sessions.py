"""Sessions, and their two sources: generated shop traffic and click-stream files.

Generated traffic comes from one seeded random generator. Its shares are plausible, not measured.
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
    from collections.abc import Iterator, Sequence
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
"""The funnel, outermost step first. A session that reached a step also reached all before it."""

DEVICES = ("DESKTOP", "MOBILE", "TABLET")
NO_DEVICE = len(DEVICES)
"""The device code of a session without a device."""
HOME_PAGE = "/{Homepage}"

_COLUMNS = {"event_time", "event_type", "product_id", "user_session"}
_EVENT_STEPS = {"view": 1, "cart": 2, "purchase": 4}

_HOUR_WEIGHTS = (3, 2, 1, 1, 1, 1, 2, 4, 6, 7, 8, 8, 8, 8, 8, 8, 8, 8, 9, 10, 11, 11, 9, 6)
_WEEKDAY_WEIGHTS = (1.0, 0.97, 0.98, 1.02, 1.1, 0.8, 0.9)
_DEVICE_SHARES = {"DESKTOP": 0.34, "TABLET": 0.05}  # the rest is MOBILE
_DEPTH_WEIGHTS = (58, 26, 9, 5, 2)
_NEXT_PAGE_PROBABILITY = 0.55
# Each session gets one of these random journeys. A power of two: random bits choose evenly.
_JOURNEY_COUNT = 2048

_ENTRY_PAGES = (HOME_PAGE,) * 7 + ("/shop", "/blog", "/category/lamps")
_PAGES = (HOME_PAGE, "/shop", "/category/lamps", "/category/rugs", "/about", "/blog", "/contact")
_PRODUCT_PAGES = tuple(
    f"/product-page/{name}-{n}" for name in ("lamp", "rug", "vase") for n in range(8)
)
_FUNNEL_PAGES = ("/cart-page", "/checkout", "/thank-you-page")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One visit. Its times are aware datetimes, truncated to whole seconds."""

    id: str
    arrival: datetime
    end: datetime
    device: str | None = "DESKTOP"
    """One of `DEVICES`, or None for an unknown device."""
    pages: tuple[str, ...] = (HOME_PAGE,)
    """The visited pages in order."""
    depth: str = "SITE_SESSIONS"
    """The deepest of `STEPS` that the session reached."""


class Journey(NamedTuple):
    """What many sessions share: the visited pages, and the index in `STEPS` of the depth."""

    pages: tuple[str, ...]
    depth: int


class SessionTable:
    """Sessions in columns, in order of arrival: about 18 bytes each, for millions in a test."""

    def __init__(self, ordered: Sequence[Session]) -> None:
        self.arrivals = array("q", (int(each.arrival.timestamp()) for each in ordered))
        """Seconds since 1970-01-01 UTC, ascending."""
        self.durations = array("I", map(_duration, ordered))
        """Seconds from arrival to end."""
        self.devices = bytearray(map(_device_code, ordered))
        """Index in `DEVICES`, or `NO_DEVICE`."""
        numbers: defaultdict[Journey, int] = defaultdict(lambda: len(numbers))
        journeys = (Journey(each.pages, STEPS.index(each.depth)) for each in ordered)
        self.journeys = array("I", (numbers[journey] for journey in journeys))
        """Index in `journey_table`."""
        self.journey_table = list(numbers)

    def __len__(self) -> int:
        return len(self.arrivals)


def _device_code(session: Session) -> int:
    return NO_DEVICE if session.device is None else DEVICES.index(session.device)


def _duration(session: Session) -> int:
    return int(session.end.timestamp()) - int(session.arrival.timestamp())


def read_events(path: str | PathLike[str]) -> Iterator[Session]:
    """Read a .csv or .csv.gz file. `World.from_events` documents the mapping."""
    events: defaultdict[str, list[_Event]] = defaultdict(list)
    with _open_text(path) as file:
        rows = csv.DictReader(file)
        if missing := _COLUMNS.difference(rows.fieldnames or ()):
            raise ValueError(f"{path} has no column {', '.join(sorted(missing))}.")
        for row in rows:
            if row["user_session"] and row["event_type"] in _EVENT_STEPS:
                events[row["user_session"]].append(_parse_event(row))
    for session_id, own_events in events.items():
        yield _session_of_events(session_id, own_events)


class _Event(NamedTuple):
    time: datetime
    step: int
    page: str


def _open_text(path: str | PathLike[str]) -> TextIO:
    opener = gzip.open if str(path).endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8", newline="")


def _parse_event(row: dict[str, str]) -> _Event:
    time = datetime.fromisoformat(row["event_time"].removesuffix(" UTC"))
    pages = {"view": f"/product-page/{row['product_id']}", "cart": "/cart-page"}
    return _Event(
        time if time.tzinfo else time.replace(tzinfo=UTC),
        _EVENT_STEPS[row["event_type"]],
        pages.get(row["event_type"], "/thank-you-page"),
    )


def _session_of_events(session_id: str, events: list[_Event]) -> Session:
    events.sort(key=lambda event: event.time)
    return Session(
        id=session_id,
        arrival=events[0].time,
        end=events[-1].time,
        device=_device_from_id(session_id),
        pages=tuple(event.page for event in events),
        depth=STEPS[max(event.step for event in events)],
    )


def _device_from_id(session_id: str) -> str:
    digit = md5(session_id.encode(), usedforsecurity=False).hexdigest()[0]
    return "MOBILE" if digit <= "7" else "DESKTOP" if digit <= "d" else "TABLET"


class _Hour(NamedTuple):
    start: int
    seconds: int
    weight: float


def generate_traffic(
    table: SessionTable,
    zone: ZoneInfo,
    seed: int,
    sessions: int,
    days: tuple[date, date],
    without_device: float,
) -> None:
    """Add random sessions to an empty table that arrive on the local days `[start, end)`."""
    random = Random(seed)  # noqa: S311
    drawn = [_random_journey(random) for _ in range(_JOURNEY_COUNT)]
    numbers = {journey: number for number, journey in enumerate(dict.fromkeys(drawn))}
    table.journey_table = list(numbers)
    choices = [numbers[journey] for journey in drawn]
    devices = _device_codes(without_device)
    for start, length, count in _sessions_per_hour(random, sessions, days, zone):
        draw = random.random
        table.arrivals.extend(sorted(start + int(draw() * length) for _ in range(count)))
        table.devices += random.randbytes(count).translate(devices)
        bits = array("H", random.randbytes(2 * count))
        table.journeys.extend(choices[number % _JOURNEY_COUNT] for number in bits)
    _add_durations(table, random)


def _add_durations(table: SessionTable, random: Random) -> None:
    pages = [len(journey.pages) for journey in table.journey_table]
    seconds_per_page = random.randbytes(len(table))
    table.durations.extend(
        pages[journey] * seconds
        for journey, seconds in zip(table.journeys, seconds_per_page, strict=True)
    )


def _sessions_per_hour(
    random: Random, sessions: int, days: tuple[date, date], zone: ZoneInfo
) -> Iterator[tuple[int, int, int]]:
    """Yield (first second, seconds, sessions) of each hour. The sessions sum up exactly."""
    hours = list(_weighted_hours(random, days, zone))
    total = sum(hour.weight for hour in hours)
    weight, assigned = 0.0, 0
    for hour in hours:
        weight += hour.weight
        due = round(sessions * weight / total)
        yield hour.start, hour.seconds, due - assigned
        assigned = due


def _weighted_hours(random: Random, days: tuple[date, date], zone: ZoneInfo) -> Iterator[_Hour]:
    first, end = days
    for number in range((end - first).days):
        day = first + timedelta(days=number)
        day_weight = _WEEKDAY_WEIGHTS[day.weekday()] * random.uniform(0.85, 1.15)
        midnight, next_midnight = (
            int(datetime(each.year, each.month, each.day, tzinfo=zone).timestamp())
            for each in (day, day + timedelta(days=1))
        )
        for start in range(midnight, next_midnight, 3600):
            seconds = min(3600, next_midnight - start)
            hour = datetime.fromtimestamp(start, zone).hour
            yield _Hour(start, seconds, day_weight * _HOUR_WEIGHTS[hour] * seconds)


def _device_codes(without_device: float) -> bytes:
    """Return the device code for each value of a random byte."""
    shares = [*_DEVICE_SHARES.values(), without_device]
    codes = [*map(DEVICES.index, _DEVICE_SHARES), NO_DEVICE]
    pairs = zip(codes, shares, strict=True)
    table = b"".join(bytes([code]) * round(share * 256) for code, share in pairs)
    return table.ljust(256, bytes([DEVICES.index("MOBILE")]))[:256]


def _random_journey(random: Random) -> Journey:
    depth = random.choices(range(len(_DEPTH_WEIGHTS)), _DEPTH_WEIGHTS)[0]
    pages = [random.choice(_ENTRY_PAGES)]
    while random.random() < _NEXT_PAGE_PROBABILITY:
        pages.append(random.choice(_PAGES))
    if depth:
        pages += random.choices(_PRODUCT_PAGES, k=random.randint(1, 3))
    pages += _FUNNEL_PAGES[: max(0, depth - 1)]
    return Journey(tuple(pages), depth)

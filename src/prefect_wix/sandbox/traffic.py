"""Made-up visits to a shop: when people come, with what, where they go and how far they get.

Everything is drawn from one seeded generator. The shares are plausible, not measured; nothing
here decides what a request means.
"""

from __future__ import annotations

from array import array
from datetime import date, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from prefect_wix.sandbox.session import DEVICES, HOME_PAGE, Journey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect_wix.sandbox.world import World

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


class _Hour(NamedTuple):
    start: int
    seconds: int
    weight: float


def shop_traffic(
    world: World, seed: int, sessions: int, days: tuple[date, date], without_device: float
) -> None:
    """Add so many sessions to an empty world, arriving on the half-open range of local days."""
    random = Random(seed)  # noqa: S311
    drawn = [_journey(random) for _ in range(_JOURNEYS)]
    numbers = {journey: number for number, journey in enumerate(dict.fromkeys(drawn))}
    world.journey_table = list(numbers)
    choice = [numbers[journey] for journey in drawn]
    devices = _device_bytes(without_device)
    for start, length, count in _arrivals(random, sessions, days, ZoneInfo(world.timezone)):
        draw = random.random
        world.arrivals.extend(sorted(start + int(draw() * length) for _ in range(count)))
        world.devices += random.randbytes(count).translate(devices)
        bits = array("H", random.randbytes(2 * count))
        world.journeys.extend(choice[number % _JOURNEYS] for number in bits)
    _stay(world, random)


def _stay(world: World, random: Random) -> None:
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
    codes = [*map(DEVICES.index, _DEVICE_SHARES), len(DEVICES)]
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

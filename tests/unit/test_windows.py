"""Local days tile time without gap or overlap, in every zone and year."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from importlib import resources
from itertools import pairwise
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo, available_timezones

import pytest

from prefect_wix.planning.partitions import Partition
from prefect_wix.planning.windows import Window, choose_window, day_begins, last_complete_days

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
FIRST, LAST = date(1970, 1, 1), date(2037, 12, 31)
DAYS = [FIRST + n * DAY for n in range((LAST - FIRST).days + 2)]
MIDNIGHTS = [datetime.combine(day, time()) for day in DAYS]


def zones():
    """One name per distinct zone file: many names are aliases with identical bytes."""
    names = {}
    for name in sorted(available_timezones() - {"localtime"}):
        with load_tzdata(name) as file:
            names.setdefault(file.read(), name)
    return sorted(names.values())


def load_tzdata(name):
    """The compiled file of a zone, from the place that zoneinfo reads."""
    for root in TZPATH:
        if (Path(root) / name).is_file():
            return (Path(root) / name).open("rb")
    return resources.files("tzdata.zoneinfo").joinpath(name).open("rb")


ZONES = zones()


def hours(day, zone):
    return (day_begins(day + DAY, zone) - day_begins(day, zone)) / timedelta(hours=1)


def days_near_changes(zone):
    """The days around each change of the UTC offset, and every 499th day."""
    # Every change within a day shows in the UTC offsets at the midnights around it.
    offsets = list(map(ZoneInfo(zone).utcoffset, MIDNIGHTS))
    changes = [n for n, (one, two) in enumerate(pairwise(offsets)) if one is not two]
    near = {n + m for n in changes for m in range(-1, 3)}
    return [DAYS[n] for n in sorted(near | set(range(0, len(DAYS), 499))) if 0 <= n < len(DAYS)]


@pytest.mark.parametrize("part", range(4))
def test_days_tile_time_in_every_zone_and_year(part):
    """From 1970 to 2037, each day begins at the first instant of its date.

    The second before belongs to an earlier date; the instant itself belongs to the date or, if the
    zone skipped the date, to the next. So no session falls between two windows or into two.
    """
    for zone in ZONES[part::4]:
        info = ZoneInfo(zone)
        for day in days_near_changes(zone):
            begins = day_begins(day, zone)
            last_date = (begins - SECOND).astimezone(info).date()
            first_date = begins.astimezone(info).date()
            assert last_date < day <= first_date, (zone, day)
            assert first_date == day or hours(day, zone) == 0, (zone, day)
            assert 0 <= hours(day, zone) <= 48, (zone, day)


@pytest.mark.parametrize(
    ("zone", "day", "length"),
    [
        ("Europe/Berlin", date(2024, 3, 30), 24),
        ("Europe/Berlin", date(2024, 3, 31), 23),
        ("Europe/Berlin", date(2024, 10, 27), 25),
        ("Australia/Lord_Howe", date(2024, 4, 7), 24.5),
        ("Asia/Jerusalem", date(2024, 3, 29), 23),
        # The clocks skip midnight: the day begins at 01:00 and has 23 hours.
        ("America/Sao_Paulo", date(2018, 11, 4), 23),
        ("America/Sao_Paulo", date(2018, 2, 17), 25),
        ("Asia/Beirut", date(2022, 3, 27), 23),
        # Midnight occurs twice: the first one counts.
        ("America/Havana", date(2024, 11, 3), 25),
        # Dates that the zone skipped.
        ("Pacific/Apia", date(2011, 12, 30), 0),
        ("Pacific/Kwajalein", date(1993, 8, 21), 0),
        ("Pacific/Apia", date(2011, 12, 29), 24),
        ("Pacific/Apia", date(2011, 12, 31), 24),
    ],
)
def test_a_day_has_the_length_of_its_local_date(zone, day, length):
    assert hours(day, zone) == length


def test_a_day_whose_midnight_is_skipped_begins_at_the_clock_change():
    begins = day_begins(date(2018, 11, 4), "America/Sao_Paulo")
    assert begins == datetime(2018, 11, 4, 3, tzinfo=UTC)
    assert begins.astimezone(ZoneInfo("America/Sao_Paulo")).hour == 1


def test_a_partition_ends_with_its_local_day():
    partition = Partition("site", date(2024, 3, 31), "device_type=ALL", "Europe/Berlin")
    assert partition.ends_at == datetime(2024, 3, 31, 22, tzinfo=UTC)


def test_a_window_includes_its_start_and_not_its_end():
    window = Window(date(2024, 2, 28), date(2024, 3, 1), "UTC")
    assert list(window.days()) == [date(2024, 2, 28), date(2024, 2, 29)]
    assert str(window) == "2024-02-28 to 2024-03-01 (UTC)"


@pytest.mark.parametrize("end", [date(2024, 1, 1), date(2023, 12, 31)])
def test_a_window_without_a_day_is_rejected(end):
    with pytest.raises(ValueError, match=rf"end_date {end} \(.*\) must come after .* 2024-01-01"):
        Window(date(2024, 1, 1), end, "UTC")


@pytest.mark.parametrize(
    ("before", "zone", "end"),
    [
        # Scheduled for 01:00 in Jerusalem: yesterday is over there, whenever the run starts.
        (datetime(2024, 5, 1, 22, tzinfo=UTC), "Asia/Jerusalem", date(2024, 5, 2)),
        (datetime(2024, 5, 1, 20, tzinfo=UTC), "Asia/Jerusalem", date(2024, 5, 1)),
        (datetime(2024, 5, 1, 20, tzinfo=UTC), "UTC", date(2024, 5, 1)),
        # The instant at which a day ends, and the microsecond before.
        (datetime(2024, 5, 1, 0, tzinfo=UTC), "UTC", date(2024, 5, 1)),
        (datetime(2024, 4, 30, 23, 59, 59, 999999, tzinfo=UTC), "UTC", date(2024, 4, 30)),
        # The zone of the instant makes no difference.
        (
            datetime(2024, 5, 2, 7, tzinfo=ZoneInfo("Asia/Tokyo")),
            "Asia/Jerusalem",
            date(2024, 5, 2),
        ),
        (datetime(2011, 12, 30, 12, tzinfo=UTC), "Pacific/Apia", date(2011, 12, 31)),
    ],
)
def test_the_last_complete_days_are_over_at_the_scheduled_time(before, zone, end):
    """A run that starts late loads the same days as a punctual one."""
    window = last_complete_days(3, before=before, timezone=zone)
    assert window == Window(end - 3 * DAY, end, zone)
    assert day_begins(window.end, zone) <= before < day_begins(window.end + DAY, zone)


AS_OF = datetime(2024, 5, 1, 12, tzinfo=UTC)


def test_a_window_is_two_dates_or_a_number_of_days():
    start, end = date(2024, 1, 1), date(2024, 1, 3)
    assert choose_window(start, end, None, before=AS_OF, timezone="UTC") == Window(
        start, end, "UTC"
    )
    assert choose_window(None, None, 1, before=AS_OF, timezone="UTC") == Window(
        date(2024, 4, 30), date(2024, 5, 1), "UTC"
    )


def test_two_dates_take_precedence_over_a_number_of_days():
    """A deployment sets the number for its schedule; a manual run overrides it by dates."""
    start, end = date(2024, 1, 1), date(2024, 1, 3)
    chosen = choose_window(start, end, 7, before=AS_OF, timezone="UTC")
    assert chosen == Window(start, end, "UTC")


def test_the_running_day_comes_after_the_complete_ones():
    complete = choose_window(None, None, 2, before=AS_OF, timezone="UTC")
    both = choose_window(None, None, 2, before=AS_OF, timezone="UTC", include_today=True)
    assert [*both.days()] == [*complete.days(), complete.end]
    assert complete.end == AS_OF.date()


TOGETHER = "start_date and end_date go together"


@pytest.mark.parametrize(
    ("start", "end", "days", "sentence"),
    [
        (None, None, None, "No days: give start_date"),
        (date(2024, 1, 1), None, None, TOGETHER),
        (None, date(2024, 1, 1), None, TOGETHER),
        (date(2024, 1, 1), None, 2, TOGETHER),
        (date(2024, 1, 1), date(2024, 1, 1), None, "must come after start_date"),
        (date(2024, 1, 2), date(2024, 1, 1), None, "must come after start_date"),
    ],
)
def test_parameters_without_a_window_are_rejected(start, end, days, sentence):
    with pytest.raises(ValueError, match=sentence):
        choose_window(start, end, days, before=AS_OF, timezone="UTC")


@pytest.mark.parametrize("days", [0, -1])
def test_a_number_of_days_below_one_is_rejected(days):
    with pytest.raises(ValueError, match="days must be at least 1"):
        choose_window(None, None, days, before=AS_OF, timezone="UTC")

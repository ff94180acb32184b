"""Local days and half-open ranges of them, in one IANA zone. Pure functions over dates.

A local day lasts from its first midnight to the next day's first midnight: 23, 24 or 25 hours, and
no time at all where a zone skipped a date.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

__all__ = ["ONE_DAY", "Window", "choose_window", "day_begins", "last_complete_days"]

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Window:
    """The local days ``[start, end)`` of a zone. The end is not included.

    Raises:
        ValueError: the end does not come after the start.
    """

    start: date
    end: date
    timezone: str

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise ValueError(
                f"end_date {self.end} must come after start_date {self.start}; it is not included."
            )

    def __str__(self) -> str:
        return f"{self.start} to {self.end} ({self.timezone})"

    def days(self) -> Iterator[date]:
        """Each day, oldest first."""
        return (self.start + n * ONE_DAY for n in range((self.end - self.start).days))


def day_begins(day: date, timezone: str) -> datetime:
    """The instant, in UTC, at which a local day begins.

    Where the clocks skip midnight the day begins at the instant they skip it; where midnight comes
    twice the first one counts. So each day ends where the next one begins, in every zone and year.
    """
    return datetime.combine(day, time(), ZoneInfo(timezone)).astimezone(UTC)


def last_complete_days(days: int, *, before: datetime, timezone: str) -> Window:
    """The last ``days`` local days that are over at an instant.

    Args:
        days: how many, at least one.
        before: an aware instant, such as the time a run was scheduled for.
        timezone: the IANA zone that days are counted in.

    Raises:
        ValueError: no day is asked for, or the instant has no zone.
    """
    if days < 1:
        raise ValueError(f"days must be at least 1, not {days}.")
    if before.tzinfo is None:
        raise ValueError(f"{before} has no time zone, so the day that it is in is not known.")
    today = before.astimezone(ZoneInfo(timezone)).date()
    return Window(today - days * ONE_DAY, today, timezone)


def choose_window(
    start_date: date | None,
    end_date: date | None,
    days: int | None,
    *,
    before: datetime,
    timezone: str,
) -> Window:
    """The window that a run is asked for: two dates, or else the last days before an instant.

    Dates win over ``days``, which a deployment may have set for its schedule.

    Raises:
        ValueError: neither is given, or only one date, or the end is not after the start.
    """
    if start_date is not None and end_date is not None:
        return Window(start_date, end_date, timezone)
    if start_date is not None or end_date is not None:
        raise ValueError(
            "start_date and end_date go together: give both (the end is not included)."
        )
    if days is None:
        raise ValueError(
            "Which days? Give start_date and end_date (it is not included), or days, "
            "the last so many complete local days."
        )
    return last_complete_days(days, before=before, timezone=timezone)

"""Local days and half-open ranges of them in one IANA time zone. Pure functions over dates.

A local day lasts from its first midnight to the next day's first midnight: 23, 24 or 25 hours, or
zero hours where a zone skipped a date. Which days are loaded is in `prefect_wix.planning.plan`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Window:
    """The local days ``[start, end)`` of a time zone.

    Raises:
        ValueError: the end is not after the start.
    """

    start: date
    end: date
    timezone: str

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise ValueError(
                f"end_date {self.end} (not included) must come after start_date {self.start}."
            )

    def __str__(self) -> str:
        return f"{self.start} to {self.end} ({self.timezone})"

    def days(self) -> Iterator[date]:
        """Each day, oldest first."""
        return (self.start + n * ONE_DAY for n in range((self.end - self.start).days))


def day_begins(day: date, timezone: str) -> datetime:
    """The instant, in UTC, at which a local day begins.

    If the clocks skip midnight, the day begins at the skip; if midnight occurs twice, the first one
    counts. Each day ends where the next one begins, in every zone and year.
    """
    return datetime.combine(day, time(), ZoneInfo(timezone)).astimezone(UTC)


def last_complete_days(days: int, *, before: datetime, timezone: str) -> Window:
    """The last N complete local days before an instant.

    Args:
        days: N, at least 1.
        before: an aware datetime, such as the scheduled time of a run.
        timezone: the IANA zone of the local days.

    Raises:
        ValueError: ``days`` is less than 1, or ``before`` has no time zone.
    """
    if days < 1:
        raise ValueError(f"days must be at least 1, not {days}.")
    if before.tzinfo is None:
        raise ValueError(f"{before} has no time zone, so its local day is not known.")
    today = before.astimezone(ZoneInfo(timezone)).date()
    return Window(today - days * ONE_DAY, today, timezone)


def choose_window(
    start_date: date | None,
    end_date: date | None,
    days: int | None,
    *,
    before: datetime,
    timezone: str,
    include_today: bool = False,
) -> Window:
    """The window of a run: two dates, or the last N complete local days before an instant.

    Dates take precedence over ``days``, which a deployment may set for its schedule.

    Args:
        start_date: the first local day.
        end_date: the day after the last one.
        days: N.
        before: see `last_complete_days`.
        timezone: see `last_complete_days`.
        include_today: whether the running day comes after the complete ones.

    Raises:
        ValueError: neither is given, only one date is given, or the end is not after the start.
    """
    if start_date is not None and end_date is not None:
        return Window(start_date, end_date, timezone)
    if start_date is not None or end_date is not None:
        raise ValueError(
            "start_date and end_date go together: give both (the end is not included)."
        )
    if days is None:
        raise ValueError(
            "No days: give start_date and end_date (the end is not included), or days, "
            "the last N complete local days."
        )
    window = last_complete_days(days, before=before, timezone=timezone)
    return replace(window, end=window.end + ONE_DAY) if include_today else window

"""Click-streams: files of one event a row, read as visits."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from datetime import UTC, datetime
from hashlib import md5
from typing import TYPE_CHECKING, NamedTuple

from prefect_wix.sandbox.session import STEPS, Session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike
    from typing import TextIO

_COLUMNS = {"event_time", "event_type", "product_id", "user_session"}
_EVENT_STEPS = {"view": 1, "cart": 2, "purchase": 4}


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

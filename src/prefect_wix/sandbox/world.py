"""The sessions of one site with their IDs and the site's time zone.

`sessions` generates and reads sessions; `query` finds those that match a request.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Protocol
from zoneinfo import ZoneInfo

from prefect_wix.sandbox.sessions import (
    DEVICES,
    NO_DEVICE,
    STEPS,
    Session,
    SessionTable,
    generate_traffic,
    read_events,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike


class Ids(Protocol):
    """Maps the index of a session, in order of arrival, to its ID and back."""

    def __getitem__(self, index: int, /) -> str: ...

    def find(self, session_id: str, /) -> int | None:
        """Return the index of an ID, or None if the ID is unknown."""


class ListedIds:
    """IDs from a list."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._ids = list(ids)

    def __getitem__(self, index: int) -> str:
        return self._ids[index]

    def find(self, session_id: str) -> int | None:
        """Return the index of an ID, or None if the list does not contain it."""
        return self._indices.get(session_id)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {session_id: index for index, session_id in enumerate(self._ids)}


class DerivedIds:
    """GUIDs computed from a seed and an index, in both directions. They need no memory.

    The index times a constant modulo a prime is a number of 30 hexadecimal digits. It is unique
    for each index and invertible. The version and variant digits of a random GUID are inserted.
    """

    _PRIME = 2**120 - 119
    _FACTOR = 0x9E3779B97F4A7C15F39CC0605CEDC9
    _INVERSE = pow(_FACTOR, -1, _PRIME)

    def __init__(self, seed: int) -> None:
        self._shift = Random(f"ids {seed}").randrange(self._PRIME)  # noqa: S311

    def __getitem__(self, index: int) -> str:
        digits = f"{(index * self._FACTOR + self._shift) % self._PRIME:030x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[12:15]}-a{digits[15:18]}-{digits[18:]}"

    def find(self, session_id: str) -> int | None:
        """Return the index of an ID, or None if the ID does not belong to this seed."""
        try:
            digits = session_id[:14] + session_id[15:19] + session_id[20:]
            number = int(digits.replace("-", ""), 16)
        except ValueError:
            return None
        index = (number - self._shift) * self._INVERSE % self._PRIME
        return index if self[index] == session_id else None


class World(SessionTable):
    """All sessions of one site in order of arrival, and the site's time zone."""

    def __init__(self, sessions: Iterable[Session] = (), *, timezone: str = "UTC") -> None:
        """Contain these sessions, which may be in any order. Their IDs must be unique."""
        ordered = sorted(sessions, key=lambda session: (session.arrival, session.id))
        super().__init__(ordered)
        self.timezone = timezone
        self.ids: Ids = ListedIds(each.id for each in ordered)

    @classmethod
    def generate(
        cls,
        seed: int = 7,
        *,
        sessions: int = 30_000,
        days: int = 90,
        start: date | None = None,
        end: date | None = None,
        timezone: str = "Asia/Jerusalem",
        without_device: float = 0.0,
    ) -> World:
        """Generate the traffic of a shop. Equal arguments give equal sessions.

        The sessions arrive on the local days `[start, end)`. If one of the two is missing, `days`
        determines it. If both are missing, the last day is today. `without_device` is the share of
        sessions without a device, in steps of 1/256.
        """
        zone = ZoneInfo(timezone)
        if end is None:
            tomorrow = datetime.now(zone).date() + timedelta(days=1)
            end = tomorrow if start is None else start + timedelta(days=days)
        first = end - timedelta(days=days) if start is None else start
        world = cls(timezone=timezone)
        world.ids = DerivedIds(seed)
        generate_traffic(world, zone, seed, sessions, (first, end), without_device)
        return world

    @classmethod
    def from_events(cls, path: str | PathLike[str], *, timezone: str = "UTC") -> World:
        """Read a click-stream: a .csv or .csv.gz file with one event per row.

        The file needs the columns event_time, event_type, product_id and user_session. Each
        user_session is one session, from its first to its last event. Each event is one page, in
        order of time and then of the file: view is `/product-page/<product_id>`, cart is
        `/cart-page`, purchase is `/thank-you-page`. The depth is the deepest of view
        (VIEWED_PRODUCT), cart (ADDED_TO_CART) and purchase (SESSIONS_CONVERTED). The first
        hexadecimal digit of md5(user_session) determines the device: 0-7 MOBILE, 8-d DESKTOP,
        e-f TABLET. Rows without a user_session or with another event type are skipped. A time
        without a zone is UTC.
        """
        return cls(read_events(path), timezone=timezone)

    def sessions(self) -> Iterator[Session]:
        """Yield all sessions in order of arrival."""
        return map(self.session, range(len(self)))

    def session(self, index: int) -> Session:
        """Return the session at an index in order of arrival."""
        pages, depth = self.journey_table[self.journeys[index]]
        arrival = datetime.fromtimestamp(self.arrivals[index], UTC)
        device = self.devices[index]
        return Session(
            id=self.ids[index],
            arrival=arrival,
            end=arrival + timedelta(seconds=self.durations[index]),
            device=None if device == NO_DEVICE else DEVICES[device],
            pages=pages,
            depth=STEPS[depth],
        )

    def find(self, session_id: str) -> int | None:
        """Return the index of the session with this ID, or None if there is no such session."""
        index = self.ids.find(session_id)
        return index if index is not None and index < len(self) else None

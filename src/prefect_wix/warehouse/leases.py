"""One DuckDB database in this process: whose turn it is, and whether it stays open in between.

DuckDB takes some 30 ms to open and close a file, and lets one process at a time hold it. So a file
is opened for one transaction, unless a load keeps it open while its transactions follow each other;
and a load that is long lets others in. What is done with it meanwhile is not known here.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from prefect_wix.finish import finish_in_thread

__all__ = ["KeepsOpen", "Lease", "NoTurnError", "kept_open", "lease_of"]

IDLE_SECONDS = 0.2
"""A file that nobody has used for so long is closed: other processes may want it."""
LONGEST_SECONDS = 5.0
"""For how long a file is kept open without a break,"""
BREAK_SECONDS = 0.1
"""and how long a break is: a process that waits for the file looks twice as often."""


class NoTurnError(Exception):
    """Others of this process took all the time."""


@runtime_checkable
class KeepsOpen(Protocol):
    """A warehouse that is faster where it knows that one verb will follow another."""

    def kept_open(self) -> AbstractAsyncContextManager[None]:
        """See `kept_open`."""


@asynccontextmanager
async def kept_open(warehouse: object) -> AsyncIterator[None]:
    """Let the warehouse stay open between verbs until the block is left, where it can.

    Each verb is committed all the same when it returns.
    """
    if isinstance(warehouse, KeepsOpen):
        async with warehouse.kept_open():
            yield
    else:
        yield


@dataclass
class _Opened:
    database: Any
    settings: object
    file: tuple[int, int] | None
    at: float = field(default_factory=time.monotonic)


class Lease:
    """The right to use one database, which the transactions of this process take in turn.

    DuckDB would let several at a file and fail those that collide; turns cost nothing, since each
    is short.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._keepers: set[object] = set()
        self._opened: _Opened | None = None
        self._last_used = 0.0

    @contextmanager
    def turn(
        self, connect: Callable[[], Any], *, settings: object, timeout: float
    ) -> Iterator[Any]:
        """The database, for one verb.

        Args:
            connect: opens the database.
            settings: what it opens it with; what is open with other settings is closed first.
            timeout: for how many seconds to wait for a turn.

        Raises:
            NoTurnError: it did not come.
        """
        with self._turn_within(timeout), self._closed_after_an_error():
            yield self._open(connect, settings)
            self._last_used = time.monotonic()
            if not self._keepers:
                self._close()

    def opened(self, *, settings: object) -> Any | None:
        """The database where it is open, for what needs no turn; it may be closed at any time.

        Args:
            settings: what it has to be open with.
        """
        opened = self._opened
        if opened is None or self._is_due_for_a_break(opened):
            return None
        if not self._is_still(opened, settings):
            return None
        self._last_used = time.monotonic()
        return opened.database

    @contextmanager
    def _turn_within(self, timeout: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=timeout):
            raise NoTurnError
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _closed_after_an_error(self) -> Iterator[None]:
        """Whatever it was, the next transaction begins with a database that is opened anew."""
        try:
            yield
        except BaseException:
            self._close()
            raise

    def _open(self, connect: Callable[[], Any], settings: object) -> Any:
        self._take_a_break()
        if self._opened is None or not self._is_still(self._opened, settings):
            self._close()
            self._opened = _Opened(connect(), settings, _identity(self._database))
        return self._opened.database

    def _is_still(self, opened: _Opened, settings: object) -> bool:
        """Whether it is what is wanted, and nobody has put another file in its place."""
        return (opened.settings, opened.file) == (settings, _identity(self._database))

    def _take_a_break(self) -> None:
        if self._opened is not None and self._is_due_for_a_break(self._opened):
            self._close()
            time.sleep(BREAK_SECONDS)

    def _is_due_for_a_break(self, opened: _Opened) -> bool:
        return time.monotonic() - opened.at > LONGEST_SECONDS

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.database.close()

    @asynccontextmanager
    async def kept_open(self) -> AsyncIterator[None]:
        """Keep the database open between transactions; closed when the last such block is left."""
        keeper = object()
        self._keepers.add(keeper)
        watcher = asyncio.create_task(self._close_when_idle())
        try:
            yield
        finally:
            self._keepers.discard(keeper)
            watcher.cancel()
            await finish_in_thread(self._close_unless_wanted)

    async def _close_when_idle(self) -> None:
        while True:
            await asyncio.sleep(IDLE_SECONDS / 2)
            if self._is_idle():
                await asyncio.to_thread(self._close_unless_wanted)

    def _close_unless_wanted(self) -> None:
        with self._lock:
            if not self._keepers or self._is_idle():
                self._close()

    def _is_idle(self) -> bool:
        return self._opened is not None and time.monotonic() - self._last_used > IDLE_SECONDS


@cache
def lease_of(database: str) -> Lease:
    """The one lease that this process has for a database, which is named by its real path."""
    return Lease(database)


def _identity(database: str) -> tuple[int, int] | None:
    try:
        status = Path(database).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino

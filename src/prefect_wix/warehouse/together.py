"""Work that comes at the same time is done at once.

A commit and the way to a thread cost more than what a small transaction does in between. Where many
of them come one after the other, they share both.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from prefect_wix.finish import finish

__all__ = ["Together"]

W = TypeVar("W")


class Together(Generic[W]):
    """Does work in a thread, in the order in which it came.

    Args:
        do_all: does what has come together, and returns for each what came of it: a value, or the
            exception that it ended with.
        enough: how many are waited for,
        wait_seconds: and for how long, from the first one on. What comes while others are being
            done waits for those as well.
    """

    def __init__(
        self,
        do_all: Callable[[Sequence[W]], Sequence[Any]],
        *,
        enough: int = 1,
        wait_seconds: float = 0.0,
    ) -> None:
        self._do_all = do_all
        self._wait_seconds = wait_seconds
        self._enough = enough
        self._waiting: list[tuple[W, Future[Any]]] = []
        self._is_due = self._is_busy = False
        self._lock = threading.Lock()

    async def do(self, work: W) -> Any:
        """What came of the work; a cancellation waits for it."""
        done: Future[Any] = Future()
        with self._lock:
            self._waiting.append((work, done))
            are_enough = len(self._waiting) >= self._enough
        timer = None
        if are_enough:
            self._begin()
        else:
            timer = asyncio.get_running_loop().call_later(self._wait_seconds, self._begin)
        try:
            return await finish(asyncio.wrap_future(done))
        finally:
            if timer is not None:
                timer.cancel()

    def _begin(self) -> None:
        with self._lock:
            begins, self._is_due, self._is_busy = not self._is_busy, True, True
        if begins:
            try:
                asyncio.get_running_loop().run_in_executor(None, self._serve)
            except RuntimeError as error:  # there are no threads any more
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            came, self._waiting = self._waiting, []
            self._is_due = self._is_busy = False
        for _, future in came:
            future.set_exception(error)

    def _serve(self) -> None:
        while came := self._take():
            works, futures = zip(*came, strict=True)
            try:
                ended = self._do_all(works)
            except BaseException as error:  # noqa: BLE001
                ended = [error] * len(works)
            for future, end in zip(futures, ended, strict=True):
                if isinstance(end, BaseException):
                    future.set_exception(end)
                else:
                    future.set_result(end)

    def _take(self) -> list[tuple[W, Future[Any]]]:
        with self._lock:
            came: list[tuple[W, Future[Any]]] = []
            if self._is_due:
                came, self._waiting = self._waiting, came
            self._is_due, self._is_busy = False, bool(came)
        return came

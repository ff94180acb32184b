"""The time that waiting goes by: one object, so that a simulation can bring its own."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock"]


class Clock(Protocol):
    """A monotonic clock in seconds that can also be waited on."""

    def now(self) -> float:
        """Seconds since some fixed instant; never runs backwards."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""


class _SystemClock:
    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM_CLOCK: Clock = _SystemClock()

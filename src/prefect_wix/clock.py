"""The clock that every wait uses, as a protocol: simulations and tests pass their own."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock with a sleep; both in seconds."""

    def now(self) -> float:
        """Seconds since a fixed instant; never decreases."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""


class _SystemClock:
    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM_CLOCK: Clock = _SystemClock()

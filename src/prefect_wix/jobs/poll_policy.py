"""How long a job is waited for, and the waits between polls while nothing is known about it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

__all__ = ["PollPolicy", "Sleep"]

Sleep = Callable[[float], Awaitable[None]]
"""How to wait for some seconds, or raise where the deadline comes first."""


@dataclass(frozen=True)
class PollPolicy:
    """How a job is waited for.

    Attributes:
        timeout_seconds: from when there is a job to its last page, by the monotonic clock.
        first_wait_seconds: the wait before the first poll, while it is not known how long such jobs
            take.
        growth: and until it is, the age of a job at each poll is this much that at the one before.
        longest_wait_seconds: no wait between two polls is longer.
        jitter: waits for something else than a job, such as the end of an outage, grow too, and
            are drawn from plus or minus this share, so that many spread out.
    """

    timeout_seconds: float = 3600.0
    first_wait_seconds: float = 1.0
    growth: float = 1.5
    longest_wait_seconds: float = 30.0
    jitter: float = 0.2

    def waits(self) -> Iterator[float]:
        """Waits for something that nothing is known about, in seconds, without end."""
        wait = self.first_wait_seconds
        while True:
            yield wait * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311
            wait = min(wait * self.growth, self.longest_wait_seconds)

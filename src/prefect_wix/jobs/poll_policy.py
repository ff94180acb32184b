"""How long to wait for a job: the deadline, and the waits between polls without observations.

The waits that follow from observed jobs are in `prefect_wix.jobs.poll_schedule`.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

Sleep = Callable[[float], Awaitable[None]]
"""Waits for a number of seconds; raises if the deadline is earlier."""


@dataclass(frozen=True)
class PollPolicy:
    """The deadline of a job and the waits between its polls.

    Attributes:
        timeout_seconds: from the submit, or the adoption of a running job, to its last page; on the
            monotonic clock.
        first_wait_seconds: the wait before the first poll, while no job of the kind was observed.
        growth: until then, the ratio of the job's ages at consecutive polls; also the ratio of
            consecutive waits of a backoff.
        longest_wait_seconds: the upper limit of a wait between two polls.
        jitter: a backoff wait varies by plus or minus this fraction, so that jobs do not retry
            together.
    """

    timeout_seconds: float = 3600.0
    first_wait_seconds: float = 1.0
    growth: float = 1.5
    longest_wait_seconds: float = 30.0
    jitter: float = 0.2

    def waits(self) -> Iterator[float]:
        """The waits of an exponential backoff in seconds, without end."""
        wait = self.first_wait_seconds
        while True:
            yield wait * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311
            wait = min(wait * self.growth, self.longest_wait_seconds)

"""When a request may be repeated, and how long to wait before.

A read is repeated whenever it may well succeed. A write is repeated only when it surely had no
effect: it never arrived, or Wix answered 429 or 503.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from prefect_wix.errors import PermissionDeniedError, RequestError, StatusError

__all__ = ["RetryPolicy", "should_retry"]

THROTTLE_TRIES = 2
"""Delayed tries for a 403 with an empty body, which is sometimes how Wix throttles."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a request is repeated.

    Attributes:
        times: repeats after the first try.
        first_seconds: the wait before the first repeat; it doubles from there.
        ceiling_seconds: the longest wait.
        jitter: each wait is drawn from plus or minus this share, so that many do not march in step.
    """

    times: int = 5
    first_seconds: float = 0.5
    ceiling_seconds: float = 30.0
    jitter: float = 0.2

    def waits(self) -> Iterator[float]:
        """The waits before each repeat, in seconds."""
        for repeat in range(self.times):
            wait = min(self.first_seconds * 2**repeat, self.ceiling_seconds)
            yield wait * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311


def should_retry(error: RequestError, *, reads: bool, retries: int) -> bool:
    """Whether a request that failed so may be sent again, after so many repeats."""
    if isinstance(error, PermissionDeniedError):
        return reads and error.empty and retries < THROTTLE_TRIES
    return error.retryable if reads else error.safe_to_resend


def retry_after_seconds(error: RequestError) -> float:
    """Seconds that the reply's ``Retry-After`` asked for; 0 where it asked for none."""
    return (error.retry_after or 0.0) if isinstance(error, StatusError) else 0.0

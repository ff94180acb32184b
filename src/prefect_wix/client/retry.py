"""Which failed requests are retried, and after which wait. `WixClient` sends the retries.

A read is retried when it can succeed. A write is retried only when it had no effect: it did not
reach Wix, or Wix returned 429 or 503.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from prefect_wix.errors import PermissionDeniedError, RequestError

THROTTLE_TRIES = 2
"""Retries after a 403 with an empty body, which Wix sometimes returns to throttle."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is retried, and the exponential backoff between the retries.

    Attributes:
        times: retries after the first attempt.
        first_seconds: the wait before the first retry; it doubles with each retry.
        ceiling_seconds: the longest wait.
        jitter: the random deviation of each wait, as a share: 0.2 is plus or minus 20 %.
    """

    times: int = 5
    first_seconds: float = 0.5
    ceiling_seconds: float = 30.0
    jitter: float = 0.2

    def waits(self) -> Iterator[float]:
        """The wait before each retry, in seconds."""
        for retry in range(self.times):
            wait = min(self.first_seconds * 2**retry, self.ceiling_seconds)
            yield wait * random.uniform(1 - self.jitter, 1 + self.jitter)  # noqa: S311


def should_retry(error: RequestError, *, reads: bool, retries: int) -> bool:
    """Whether a failed request is sent again.

    Args:
        error: the error of the last attempt.
        reads: the request is a read, which has no effect at Wix.
        retries: the number of retries so far.
    """
    if isinstance(error, PermissionDeniedError):
        return reads and error.empty and retries < THROTTLE_TRIES
    return error.retryable if reads else error.safe_to_resend

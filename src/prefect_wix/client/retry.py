"""Which failed requests are retried, and after which wait. `WixClient` sends the retries.

A read is retried when it can succeed. A write is retried only when it had no effect: it did not
reach Wix, or Wix returned 429 or 503.
"""

import random

from prefect_wix.errors import PermissionDeniedError, RequestError

RETRIES = 5
"""Retries of a request without a deadline."""
THROTTLE_TRIES = 2
"""Retries after a 403 with an empty body, which Wix sometimes returns to throttle."""


def backoff(retries: int) -> float:
    """The wait before the next retry: 0.5, 1, 2, ... 30 seconds, plus or minus 20 %."""
    return min(0.5 * 2.0 ** min(retries, 6), 30.0) * random.uniform(0.8, 1.2)  # noqa: S311


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

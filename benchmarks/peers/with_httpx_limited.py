"""The plain script with pyrate-limiter, for an API with a rate limit.

The limiter is a transport, so it counts every request, and repeats one that was rejected (429).
Its window is a second longer than a minute, since the server counts a request when it arrives.
"""

from __future__ import annotations

import asyncio

import httpx
from pyrate_limiter import Duration, Limiter, Rate

from benchmarks.peers.with_httpx import fetch_all
from benchmarks.task import measure_work, task_from_arguments

TOO_MANY_REQUESTS = 429
LIMITS = httpx.Limits(keepalive_expiry=4.0)  # before the server closes it, which takes 5 s here


class LimitedTransport(httpx.AsyncHTTPTransport):
    """Sends at most so many requests in 61 s."""

    def __init__(self, requests_per_minute: int) -> None:
        super().__init__(limits=LIMITS)
        rate = Rate(requests_per_minute, Duration.SECOND * 61)
        self._limiter = Limiter(rate, raise_when_fail=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.AsyncBaseTransport.handle_async_request`."""
        while True:
            if self._limiter.try_acquire("wix"):
                response = await super().handle_async_request(request)
                if response.status_code != TOO_MANY_REQUESTS:
                    return response
                await response.aclose()
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    the_task = task_from_arguments()
    transport = LimitedTransport(the_task.requests_per_minute)
    measure_work(lambda: asyncio.run(fetch_all(the_task, transport)))

"""A flow in its own process that sends requests for a site as fast as the rate limiter allows.

Used by test_shared_rate_limit: ``python -m tests.e2e.request_loop SECONDS``. Prints the number of
successful requests and the number of 429 responses.
"""

from __future__ import annotations

import asyncio
import sys
import time

from prefect import flow

from prefect_wix import WixCredentials
from prefect_wix.errors import RateLimitError


@flow
async def send_requests(seconds: float) -> tuple[int, int]:
    credentials = await WixCredentials.aload("wix")
    succeeded = rejected = 0
    end = time.monotonic() + seconds

    async def send_in_a_loop(client):
        nonlocal succeeded, rejected
        while time.monotonic() < end:
            try:
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    await client.get_site_timezone()
                succeeded += 1
            except TimeoutError:
                return
            except RateLimitError:
                rejected += 1
                return

    async with credentials.get_client() as client:
        client._retries = 0
        await asyncio.gather(*(send_in_a_loop(client) for _ in range(8)))
    return succeeded, rejected


if __name__ == "__main__":
    sys.stdout.write(" ".join(map(str, asyncio.run(send_requests(float(sys.argv[1]))))))

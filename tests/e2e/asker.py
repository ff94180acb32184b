"""A flow as a process of its own that asks for a site's zone as often as the budget lets it.

Used by the test of the shared budget: ``python -m tests.e2e.asker SECONDS``. Prints how many
requests were answered, and how many were refused as too many.
"""

from __future__ import annotations

import asyncio
import sys
import time

from prefect import flow

from prefect_wix import WixCredentials
from prefect_wix.client.retry import RetryPolicy
from prefect_wix.errors import RateLimitError


@flow
async def record(seconds: float) -> tuple[int, int]:
    credentials = await WixCredentials.aload("wix")
    answered = refused = 0
    end = time.monotonic() + seconds

    async def one_after_the_other(client):
        nonlocal answered, refused
        while time.monotonic() < end:
            try:
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    await client.get_site_timezone()
                answered += 1
            except TimeoutError:
                return
            except RateLimitError:
                refused += 1
                return

    async with credentials.get_client() as client:
        client._retry = RetryPolicy(times=0)
        await asyncio.gather(*(one_after_the_other(client) for _ in range(8)))
    return answered, refused


if __name__ == "__main__":
    sys.stdout.write(" ".join(map(str, asyncio.run(record(float(sys.argv[1]))))))

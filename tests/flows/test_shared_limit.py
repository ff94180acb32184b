"""The shared limit on the Prefect server: on credit first, and in this process alone without it."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_wix.blocks.shared_limit import BATCH, limit_name, save_limit, shared_limit

LOG = logging.getLogger("prefect_wix.test")


@pytest.fixture
async def site():
    """A site with a limit of 60 requests a minute on the server."""
    site_id = str(uuid4())
    await save_limit(site_id, 60)
    return site_id


async def send(site_id, *, requests=1_000, seconds=60.0):
    """Send requests one after the other, and return how many were sent in this time."""
    limit, end = shared_limit(site_id, LOG), time.monotonic() + seconds
    for number in range(requests):
        while not limit(1):
            if time.monotonic() > end:
                return number
            await asyncio.sleep(0.02)
    return requests


async def change(site_id, **fields):
    async with get_client() as client:
        update = GlobalConcurrencyLimitUpdate(**fields)
        await client.update_global_concurrency_limit(limit_name(site_id), update)


async def active_slots(site_id):
    async with get_client() as client:
        found = await client.read_global_concurrency_limit_by_name(limit_name(site_id))
    return found.active_slots


def messages(caplog):
    return [one.getMessage() for one in caplog.records if one.name == LOG.name]


async def test_the_first_requests_wait_for_no_call(site):
    """They are sent on credit; their slots are acquired afterwards."""
    assert await send(site, seconds=0.0) == BATCH
    async with asyncio.timeout(10):
        while await active_slots(site) < BATCH - 1:
            await asyncio.sleep(0.02)


async def test_at_most_five_requests_are_sent_beyond_the_slots_of_the_limit(site):
    """In 4 s the limit grants its five slots; those that decay repay the credit first."""
    assert await send(site, seconds=4.0) == 2 * BATCH


async def test_a_blocked_event_loop_stops_no_other_one(site):
    """The first call for slots belongs to the loop of this test, which waits for the thread."""
    assert await send(site, seconds=0.0) == BATCH
    other = send(site, requests=1, seconds=8.0)
    with ThreadPoolExecutor() as threads:
        assert threads.submit(copy_context().run, asyncio.run, other).result() == 1


@pytest.mark.parametrize("reason", ["gone", "silent"])
async def test_a_server_that_is_gone_or_silent_slows_nothing(reason, caplog):
    """The first wait is bounded; then more requests can be sent than Wix allows."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1] if reason == "silent" else 9
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            site_id = str(uuid4())
            assert await send(site_id, requests=BATCH + 1, seconds=4.0) == BATCH + 1
            assert await send(site_id, seconds=3.0) >= 200 / 60 * 3
    (warning,) = messages(caplog)
    assert "in this process only until the Prefect server grants" in warning


async def test_the_password_in_the_url_of_the_server_is_not_logged(caplog):
    """The text of a rejected call has the URL."""

    async def reject(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(reject, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with temporary_settings({PREFECT_API_URL: f"http://user:c4nary@127.0.0.1:{port}/api"}):
            assert await send(str(uuid4()), requests=BATCH + 1) == BATCH + 1
    (warning,) = messages(caplog)
    assert warning.endswith(" again: HTTP 401 Unauthorized.")


async def test_a_server_that_responds_again_grants_slots_again(site):
    """A load that begins while the server is gone uses the limit later."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        await send(site, requests=BATCH + 1, seconds=4.0)
    assert await active_slots(site) == 0
    async with asyncio.timeout(20):
        while await active_slots(site) == 0:
            await send(site, requests=1, seconds=1.0)


async def test_a_limit_that_is_missing_or_switched_off_is_reported_once(site, caplog):
    """The requests continue, and the warning says what to do."""
    await change(site, active=False)
    for site_id in (site, str(uuid4())):
        assert await send(site_id, requests=50, seconds=20.0) == 50
    # On a slow machine, the first call can fail.
    logged = [one for one in messages(caplog) if "limit 'wix" in one and "until" not in one]
    assert ["is inactive" in one for one in logged] == [True, False]
    assert "run `prefect-wix setup`" in logged[1]


async def test_a_lowered_limit_is_obeyed_and_reported_once(site, caplog):
    """Slots are acquired two at a time; before, the server denied five at once."""
    await change(site, limit=2)
    assert BATCH <= await send(site, seconds=5.0) <= BATCH + 2
    (warning,) = messages(caplog)
    assert "is set to 2" in warning

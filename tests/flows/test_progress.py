"""The progress of a task, as a line of its log and as an artifact."""

from __future__ import annotations

import asyncio

import httpx
from prefect import flow, get_run_logger

from prefect_wix.tasks import progress
from prefect_wix.tasks.progress import Progress


async def test_progress_is_reported_although_nothing_ends(artifacts, monkeypatch, caplog):
    """A long wait for one job, or for the rate limit, is no silence; the line says when it ends."""
    monkeypatch.setattr(progress, "_EVERY_SECONDS", 0.01)
    share = 0.5

    @flow
    async def wait():
        nonlocal share
        async with Progress("waiting", get_run_logger(), lambda: (share, f"{share} of 1")):
            await asyncio.sleep(0.5)
            share = 1.0

    await wait()
    assert "0.5 of 1, ends in about 0:00:0" in caplog.text
    (shown,) = await artifacts("waiting")
    assert (shown.data, shown.description) == (100.0, "1.0 of 1")


async def test_the_last_update_is_applied_last(artifacts, monkeypatch):
    """The server goes on with a request that its client has cancelled."""
    monkeypatch.setattr(progress, "_EVERY_SECONDS", 0.01)
    update, in_flight, share = progress.aupdate_progress_artifact, asyncio.Event(), 0.5
    requests = set()

    async def update_slowly(*args, **values):
        async def on_the_server():
            if values["progress"] == 50.0:
                in_flight.set()
                await asyncio.sleep(0.3)
            await update(*args, **values)

        requests.add(request := asyncio.create_task(on_the_server()))
        await asyncio.shield(request)

    monkeypatch.setattr(progress, "aupdate_progress_artifact", update_slowly)

    @flow
    async def wait():
        nonlocal share
        async with Progress("applied", get_run_logger(), lambda: (share, f"{share} of 1")):
            await in_flight.wait()
            share = 1.0
        await asyncio.gather(*requests)

    await wait()
    (shown,) = await artifacts("applied")
    assert (shown.data, shown.description) == (100.0, "1.0 of 1")


async def test_a_server_that_rejects_progress_is_one_line_without_its_url(monkeypatch, caplog):
    """The URL may have a password; the work goes on."""
    monkeypatch.setattr(progress, "_EVERY_SECONDS", 0.01)

    async def reject(*_, **__):
        request = httpx.Request("POST", "http://me:c4nary@127.0.0.1/api/artifacts/")
        httpx.Response(401, request=request).raise_for_status()

    monkeypatch.setattr(progress, "acreate_progress_artifact", reject)

    @flow
    async def wait():
        async with Progress("waiting", get_run_logger(), lambda: (0.5, "1 of 2 partitions")):
            await asyncio.sleep(0.1)

    await wait()
    (line,) = [one for one in caplog.messages if "Progress artifact" in one]
    assert line == "Progress artifact not written, updates stopped (HTTPStatusError)."
    assert "c4nary" not in caplog.text

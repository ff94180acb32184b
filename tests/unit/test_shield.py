"""The shield delays a cancellation until the work is done."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import anyio
import pytest

from prefect_wix.errors import SpoolError
from prefect_wix.spool import shield as shield_module
from prefect_wix.spool.id_spool import Spool
from prefect_wix.spool.shield import shield, shield_in_thread


class Work:
    """Blocks its thread until `may_end` is set."""

    def __init__(self, error=None):
        self.is_done = False
        self.began = threading.Event()
        self.may_end = threading.Event()
        self._error = error

    def __call__(self):
        self.began.set()
        assert self.may_end.wait(10)
        self.is_done = True
        if self._error:
            raise self._error
        return "done"

    async def wait_until_begun(self):
        while not self.began.is_set():
            await asyncio.sleep(0.001)


async def test_the_shield_returns_or_raises_what_the_work_does():
    work = Work()
    work.may_end.set()
    assert await shield_in_thread(work) == "done"
    with pytest.raises(KeyError):
        await shield(asyncio.to_thread({}.__getitem__, "no such key"))


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_cancelled_caller_waits_for_the_end_of_the_work(times):
    work = Work()
    caller = asyncio.create_task(shield_in_thread(work))
    await work.wait_until_begun()
    for _ in range(times):
        caller.cancel()
        await asyncio.sleep(0.01)
        assert not caller.done()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.is_done


async def test_a_timeout_that_cancels_repeatedly_waits_once(monkeypatch):
    """There is no busy loop."""
    waits = []

    async def count(tasks, **options):
        waits.append(tasks)
        return await wait(tasks, **options)

    wait = asyncio.wait
    monkeypatch.setattr(asyncio, "wait", count)
    work = Work()
    asyncio.get_running_loop().call_later(0.2, work.may_end.set)
    with pytest.raises(TimeoutError), anyio.fail_after(0.02):
        await shield_in_thread(work)
    assert work.is_done
    assert len(waits) == 1


async def test_an_error_of_the_work_after_a_cancellation_is_not_logged_by_asyncio():
    contexts = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: contexts.append(context))
    work = Work(error=RuntimeError("too late"))
    caller = asyncio.create_task(shield_in_thread(work))
    await work.wait_until_begun()
    caller.cancel()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    del caller
    await asyncio.sleep(0)
    assert contexts == []


async def test_work_that_does_not_end_is_cancelled_after_the_bound(monkeypatch):
    """It may clean up; what ignores the cancellation too is left alone."""
    monkeypatch.setattr(shield_module, "SHIELD_SECONDS", 0.1)
    ended = []

    async def hang(times):
        for _ in range(times):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            ended.append(times)

    for times in (1, 2):
        caller = asyncio.create_task(shield(hang(times)))
        await asyncio.sleep(0.01)
        caller.cancel()
        async with asyncio.timeout(2):
            await asyncio.wait([caller])
        assert caller.cancelled()
    assert ended == [1, 2]


async def test_a_thread_that_does_not_end_loses_its_spool_and_nothing_else(monkeypatch):
    """The caller goes on after the bound; the thread fails at the spool that it finds closed."""
    monkeypatch.setattr(shield_module, "SHIELD_SECONDS", 0.1)
    began, may_end, errors = threading.Event(), threading.Event(), []

    def read():
        batches = spool.batches(1)
        next(batches)
        began.set()
        assert may_end.wait(10)
        try:
            list(batches)
        except SpoolError as error:
            errors.append(error)

    with Spool() as spool:
        spool.add(["a", "b"])
        caller = asyncio.create_task(shield_in_thread(read))
        while not began.is_set():
            await asyncio.sleep(0.001)
        caller.cancel()
        await asyncio.wait([caller], timeout=2)
        assert caller.cancelled()
    may_end.set()
    while not errors:
        await asyncio.sleep(0.001)

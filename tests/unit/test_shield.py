"""Work that a cancellation waits for."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from prefect_wix.spool.shield import shield, shield_in_thread


class Work:
    """Blocks in its thread until it is let go on."""

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

    async def begun(self):
        while not self.began.is_set():
            await asyncio.sleep(0.001)


async def test_it_gives_what_the_work_gives():
    work = Work()
    work.may_end.set()
    assert await shield_in_thread(work) == "done"
    with pytest.raises(KeyError):
        await shield(asyncio.to_thread({}.__getitem__, "no such key"))


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_caller_that_is_cancelled_waits_for_the_end_however_often(times):
    work = Work()
    caller = asyncio.create_task(shield_in_thread(work))
    await work.begun()
    for _ in range(times):
        caller.cancel()
        await asyncio.sleep(0.01)
        assert not caller.done()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.is_done


async def test_a_timeout_that_cancels_over_and_over_waits_too(monkeypatch):
    """And is heeded once, not in a busy loop."""
    waits = []

    async def count(tasks):
        waits.append(tasks)
        return await wait(tasks)

    wait = asyncio.wait
    monkeypatch.setattr(asyncio, "wait", count)
    work = Work()
    asyncio.get_running_loop().call_later(0.2, work.may_end.set)
    with pytest.raises(TimeoutError), anyio.fail_after(0.02):
        await shield_in_thread(work)
    assert work.is_done
    assert len(waits) == 1


async def test_an_error_of_work_that_nobody_waits_for_any_more_is_not_told():
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    work = Work(error=RuntimeError("too late"))
    caller = asyncio.create_task(shield_in_thread(work))
    await work.begun()
    caller.cancel()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    del caller
    await asyncio.sleep(0)
    assert told == []

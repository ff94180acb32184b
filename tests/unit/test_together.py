"""Work that comes at the same time is done at once, in its order, and nobody is left waiting."""

from __future__ import annotations

import asyncio
import threading

import pytest

from prefect_wix.warehouse.together import Together


class Worker:
    """Does work by writing it down, when it may."""

    def __init__(self):
        self.batches = []
        self.may_go = threading.Event()
        self.may_go.set()

    def do_all(self, works):
        assert self.may_go.wait(30)
        self.batches.append(list(works))
        return [ValueError(work) if work == "bad" else f"did {work}" for work in works]


@pytest.fixture
def worker():
    return Worker()


async def begun(*coroutines):
    tasks = [asyncio.create_task(one) for one in coroutines]
    await asyncio.sleep(0.05)
    return tasks


async def test_what_comes_meanwhile_is_done_at_once_and_in_order(worker):
    together = Together(worker.do_all)
    worker.may_go.clear()
    tasks = await begun(*map(together.do, "abcd"))
    worker.may_go.set()
    assert await asyncio.gather(*tasks) == ["did a", "did b", "did c", "did d"]
    assert [one for batch in worker.batches for one in batch] == list("abcd")
    assert len(worker.batches) <= 2


async def test_each_gets_what_came_of_its_own_work(worker):
    together = Together(worker.do_all, enough=3, wait_seconds=60)
    results = await asyncio.gather(*map(together.do, ["a", "bad", "c"]), return_exceptions=True)
    assert [str(one) for one in results] == ["did a", "bad", "did c"]
    assert len(worker.batches) == 1


async def test_enough_are_not_waited_for_any_longer(worker):
    together = Together(worker.do_all, enough=2, wait_seconds=60)
    async with asyncio.timeout(30):
        await asyncio.gather(*map(together.do, "abcd"))
    assert sum(map(len, worker.batches)) == 4


async def test_one_that_is_alone_is_done_after_a_while(worker):
    together = Together(worker.do_all, enough=8, wait_seconds=0.01)
    async with asyncio.timeout(30):
        assert await together.do("a") == "did a"
        assert await together.do("b") == "did b"


async def test_what_comes_while_others_are_done_waits_for_enough_again(worker):
    """Else a slow engine would be handed one after the other."""
    together = Together(worker.do_all, enough=2, wait_seconds=60)
    worker.may_go.clear()
    tasks = await begun(together.do("a"), together.do("b"))
    tasks += await begun(together.do("c"))
    worker.may_go.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*tasks[:2])
        tasks += await begun(together.do("d"))
        await asyncio.gather(*tasks)
    assert worker.batches == [["a", "b"], ["c", "d"]]


async def test_a_bug_reaches_all_who_wait_and_the_next_are_served():
    done = []

    def do_all(works):
        done.append(works)
        if len(done) == 1:
            raise ZeroDivisionError
        return works

    together = Together(do_all)
    with pytest.raises(ZeroDivisionError):
        await together.do("a")
    assert await together.do("b") == "b"


async def test_a_cancellation_waits_for_the_work(worker):
    together = Together(worker.do_all)
    worker.may_go.clear()
    [task] = await begun(together.do("a"))
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    worker.may_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert worker.batches == [["a"]]


async def test_one_who_is_torn_away_takes_nobody_along(worker):
    """A loop that ends cancels every task it has, those inside of `do` as well."""
    together = Together(worker.do_all)
    worker.may_go.clear()
    tasks = await begun(together.do("a"), together.do("b"))
    inner = asyncio.all_tasks() - {*tasks, asyncio.current_task()}
    for task in (tasks[0], *inner):
        task.cancel()
    worker.may_go.set()
    await asyncio.wait(tasks)
    async with asyncio.timeout(30):
        assert await together.do("c") == "did c"


async def test_where_there_are_no_threads_any_more_nobody_waits(worker, monkeypatch):
    def refuse(*args):
        raise RuntimeError("cannot schedule new futures after shutdown")

    together = Together(worker.do_all, enough=2, wait_seconds=0.01)
    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)
    async with asyncio.timeout(30):
        with pytest.raises(RuntimeError, match="shutdown"):
            await together.do("a")
        monkeypatch.undo()
        assert await together.do("b") == "did b"


def test_it_serves_one_loop_after_the_other(worker):
    """A process may run many of them, each for one flow."""
    together = Together(worker.do_all)
    assert [asyncio.run(together.do(one)) for one in "ab"] == ["did a", "did b"]

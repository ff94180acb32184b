"""Pages ahead of their turn: few at once, many held, none lost, hardly one in vain."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_wix.client.models import JobPage, JobStatus
from prefect_wix.jobs.prefetch import PAGES_AHEAD, PAGES_IN_FLIGHT, PagePrefetcher

LENGTH = 10
"""How many ids a page may have."""


class Result:
    """A finished job's result of numbered ids, whose pages come when they are let."""

    page_limit = LENGTH

    def __init__(self, total):
        self.total = total
        self.asked = []
        self.pauses = 0
        self.lengths = {}
        """Offset -> how long its page is, where it is not as long as it may be."""
        self.errors = {}
        self._may_come = defaultdict(asyncio.Event)
        self._is_open = False

    def let(self, *offsets):
        for offset in offsets:
            self._may_come[offset].set()

    def let_all(self):
        self._is_open = True
        self.let(*self.asked)

    async def page(self, offset):
        self.asked.append(offset)
        if not self._is_open:
            await self._may_come[offset].wait()
        if offset in self.errors:
            raise self.errors[offset]
        return self.at(offset)

    def at(self, offset):
        end = min(offset + self.lengths.pop(offset, LENGTH), self.total)
        ids = tuple(map(str, range(offset, end)))
        return JobPage(
            status=JobStatus.FINISHED, status_text="FINISHED", total=self.total, session_ids=ids
        )

    async def pause(self):
        self.pauses += 1


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def count(pages):
    return sum(len(page.session_ids) for page in pages)


def offsets(pages):
    return [int(page.session_ids[0]) for page in pages]


async def test_those_that_have_come_are_handed_out_together_up_to_a_gap():
    result = Result(100)
    async with PagePrefetcher(result, result.at(0)) as pages:
        first = asyncio.create_task(pages.pages(10))
        await settle()
        result.let(20, 40, 10)
        assert offsets(await first) == [10, 20]
        result.let(30)
        await settle()
        assert offsets(await pages.pages(30)) == [30, 40]


async def test_a_page_is_not_held_back_for_those_behind_it():
    result = Result(100)
    async with PagePrefetcher(result, result.at(0)) as pages:
        first = asyncio.create_task(pages.pages(10))
        await settle()
        result.let(10)
        assert offsets(await first) == [10]


async def test_a_few_are_asked_for_at_once_counted_from_the_first_that_has_not_come():
    """So that a page that turns out short has made few others vain."""
    result = Result(1000)
    async with PagePrefetcher(result, result.at(0)) as pages:
        first = asyncio.create_task(pages.pages(10))
        await settle()
        assert result.asked == [10, 20, 30, 40]
        result.let(20, 30)
        await settle()
        assert result.asked == [10, 20, 30, 40]
        result.let(10)
        await first
        await settle()
        assert result.asked == [10, 20, 30, 40, 50, 60, 70]


async def test_as_many_are_held_as_came_before_and_no_more():
    """So that a result which never moves on is found out by a few pages."""
    result = Result(LENGTH * 1000)
    result.let_all()
    ids, taken = LENGTH, []
    async with PagePrefetcher(result, result.at(0)) as pages:
        for _ in range(7):
            received = await pages.pages(ids)
            ids += count(received)
            taken.append(len(received))
            await asyncio.sleep(0.01)
    assert taken == [PAGES_IN_FLIGHT, 5, 10, 20, PAGES_AHEAD, PAGES_AHEAD, PAGES_AHEAD]


async def test_nothing_is_asked_for_ahead_behind_the_total():
    result = Result(30)
    result.let_all()
    async with PagePrefetcher(result, result.at(0)) as pages:
        assert offsets(await pages.pages(10)) == [10, 20]
        await settle()
    assert result.asked == [10, 20]


async def test_a_page_that_is_not_full_ends_it_until_the_next_that_is():
    result = Result(1000)
    result.lengths = {20: 3}
    async with PagePrefetcher(result, result.at(0)) as pages:
        first = asyncio.create_task(pages.pages(10))
        await settle()
        result.let(10, 20)
        assert [len(page.session_ids) for page in await first] == [10, 3]
        await settle()
        in_vain = len(result.asked) - 2
        assert in_vain <= PAGES_IN_FLIGHT
        result.let(23, 33)
        assert offsets(await pages.pages(23)) == [23]
        assert result.asked[2 + in_vain :] == [23]
        assert offsets(await pages.pages(33)) == [33]
        await settle()
        assert result.asked[3 + in_vain :] == [33, 43, 53, 63, 73]


async def test_what_is_out_of_step_is_dropped_when_it_begins_anew():
    """Two short pages later it is in step again with what was asked for before the first one."""
    before = asyncio.all_tasks()
    result = Result(200)
    result.lengths = {20: 3, 43: 7}
    ids = LENGTH
    async with PagePrefetcher(result, result.at(0)) as pages:
        while ids < 200:
            first = asyncio.create_task(pages.pages(ids))
            await settle()
            result.let(ids)
            received = await first
            assert offsets(received)[0] == ids
            ids += count(received)
            await settle()
    assert ids == 200
    assert asyncio.all_tasks() == before


async def test_where_the_page_limit_was_lowered_nothing_more_is_asked_for_ahead():
    result = Result(1000)
    async with PagePrefetcher(result, result.at(0)) as pages:
        first = asyncio.create_task(pages.pages(10))
        await settle()
        result.page_limit = LENGTH // 2
        result.let(10)
        assert offsets(await first) == [10]
        await settle()
        assert result.asked == [10, 20, 30, 40]


async def test_an_error_is_raised_in_its_turn():
    """What came before it counts, and nothing more is asked for."""
    result = Result(10_000)
    result.errors = {2100: RuntimeError("gone")}
    result.let_all()
    ids = LENGTH
    async with PagePrefetcher(result, result.at(0)) as pages:
        while ids < 2100:
            ids += count(await pages.pages(ids))
            await asyncio.sleep(0.005)
        with pytest.raises(RuntimeError, match="gone"):
            await pages.pages(2100)
    assert ids == 2100
    assert max(result.asked) <= 2100 + LENGTH * (PAGES_IN_FLIGHT - 1)


async def test_it_waits_a_little_after_an_empty_page():
    result = Result(30)
    result.let_all()
    result.lengths = {10: 0}
    async with PagePrefetcher(result, result.at(0)) as pages:
        [empty] = await pages.pages(10)
        assert (empty.session_ids, result.pauses) == ((), 0)
        assert offsets(await pages.pages(10)) == [10, 20]
        assert result.pauses == 1


async def test_leaving_early_leaves_nothing_on_its_way():
    before = asyncio.all_tasks()
    result = Result(1000)
    async with PagePrefetcher(result, result.at(0)) as pages:
        result.let(10)
        await pages.pages(10)
        assert len(asyncio.all_tasks() - before) == PAGES_IN_FLIGHT
    assert asyncio.all_tasks() == before


async def test_leaving_sends_nothing_more():
    """Not even what was about to be sent."""
    before = asyncio.all_tasks()
    result = Result(10_000)
    result.let_all()
    ids = LENGTH
    async with PagePrefetcher(result, result.at(0)) as pages:
        for _ in range(5):
            ids += count(await pages.pages(ids))
            await asyncio.sleep(0.005)
        ids += count(await pages.pages(ids))
        asked = len(result.asked)
        assert len(asyncio.all_tasks() - before) == PAGES_IN_FLIGHT
    await settle()
    assert asyncio.all_tasks() == before
    assert len(result.asked) == asked


@given(
    total=st.integers(0, 60 * LENGTH),
    short=st.dictionaries(st.integers(0, 60 * LENGTH), st.integers(0, LENGTH - 1), max_size=4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_all_ids_come_once_and_in_order_however_pages_come(total, short, seed):
    """Pages of any length in any order; each that is short makes few requests vain."""
    asyncio.run(read_all(total, dict(short), random.Random(seed)))


async def read_all(total, short, chance):
    result = Result(total)
    result.lengths = short
    shorts = len(short)

    async def come():
        while True:
            waiting = [offset for offset in result.asked if not result._may_come[offset].is_set()]
            result.let(*chance.sample(waiting, chance.randint(0, len(waiting))))
            await asyncio.sleep(0)

    before = asyncio.all_tasks()
    coming = asyncio.create_task(come())
    first = result.at(0)
    ids = list(first.session_ids)
    needed = 0
    async with PagePrefetcher(result, first) as pages:
        while len(ids) < total:
            for _ in range(chance.randint(0, 20)):  # the disk is busy
                await asyncio.sleep(0)
            received = await pages.pages(len(ids))
            needed += len(received)
            ids += [session_id for page in received for session_id in page.session_ids]
    assert asyncio.all_tasks() - before == {coming}
    coming.cancel()
    assert ids == list(map(str, range(total)))
    assert len(result.asked) - needed <= shorts * (PAGES_IN_FLIGHT - 1)

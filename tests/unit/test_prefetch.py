"""Prefetched pages: few in flight, many buffered, none lost, few unused."""

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
"""The page limit."""


class Result:
    """The result of a finished job with numbered IDs; each page is released by the test."""

    page_limit = LENGTH

    def __init__(self, total):
        self.total = total
        self.requested = []
        self.pauses = 0
        self.lengths = {}
        """Offset -> length of a page that is not full; used once."""
        self.errors = {}
        self._released = defaultdict(asyncio.Event)
        self._is_open = False

    def release(self, *offsets):
        for offset in offsets:
            self._released[offset].set()

    def release_all(self):
        self._is_open = True
        self.release(*self.requested)

    async def page(self, offset):
        self.requested.append(offset)
        if not self._is_open:
            await self._released[offset].wait()
        if offset in self.errors:
            raise self.errors[offset]
        return self.page_at(offset)

    def page_at(self, offset):
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


async def test_received_pages_are_returned_together_up_to_a_gap():
    result = Result(100)
    async with PagePrefetcher(result, result.page_at(0)) as pages:
        first = asyncio.create_task(pages.pages(10))
        await settle()
        result.release(20, 40, 10)
        assert offsets(await first) == [10, 20]
        result.release(30)
        await settle()
        assert offsets(await pages.pages(30)) == [30, 40]


async def test_a_page_does_not_wait_for_later_pages():
    result = Result(100)
    async with PagePrefetcher(result, result.page_at(0)) as pages:
        first = asyncio.create_task(pages.pages(10))
        await settle()
        result.release(10)
        assert offsets(await first) == [10]


async def test_few_pages_are_in_flight_counted_from_the_first_one_missing():
    """A short page makes few other requests useless."""
    result = Result(1000)
    async with PagePrefetcher(result, result.page_at(0)) as pages:
        first = asyncio.create_task(pages.pages(10))
        await settle()
        assert result.requested == [10, 20, 30, 40]
        result.release(20, 30)
        await settle()
        assert result.requested == [10, 20, 30, 40]
        result.release(10)
        await first
        await settle()
        assert result.requested == [10, 20, 30, 40, 50, 60, 70]


async def test_at_most_as_many_pages_are_buffered_as_were_read_before():
    """A result that repeats itself costs few requests."""
    result = Result(LENGTH * 1000)
    result.release_all()
    ids, batches = LENGTH, []
    async with PagePrefetcher(result, result.page_at(0)) as pages:
        for _ in range(7):
            received = await pages.pages(ids)
            ids += count(received)
            batches.append(len(received))
            for _ in range(100):
                await asyncio.sleep(0)
    assert batches == [PAGES_IN_FLIGHT, 5, 10, 20, PAGES_AHEAD, PAGES_AHEAD, PAGES_AHEAD]


async def test_no_page_is_fetched_beyond_the_total():
    result = Result(30)
    result.release_all()
    async with PagePrefetcher(result, result.page_at(0)) as pages:
        assert offsets(await pages.pages(10)) == [10, 20]
        await settle()
    assert result.requested == [10, 20]


async def test_a_short_page_stops_prefetching_until_the_next_full_page():
    result = Result(1000)
    result.lengths = {20: 3}
    async with PagePrefetcher(result, result.page_at(0)) as pages:
        first = asyncio.create_task(pages.pages(10))
        await settle()
        result.release(10, 20)
        assert [len(page.session_ids) for page in await first] == [10, 3]
        await settle()
        unused = len(result.requested) - 2
        assert unused <= PAGES_IN_FLIGHT
        result.release(23, 33)
        assert offsets(await pages.pages(23)) == [23]
        assert result.requested[2 + unused :] == [23]
        assert offsets(await pages.pages(33)) == [33]
        await settle()
        assert result.requested[3 + unused :] == [33, 43, 53, 63, 73]


async def test_pages_at_outdated_offsets_are_cancelled_when_prefetching_restarts():
    """After two short pages the offsets match those before the first one again."""
    before = asyncio.all_tasks()
    result = Result(200)
    result.lengths = {20: 3, 43: 7}
    ids = LENGTH
    async with PagePrefetcher(result, result.page_at(0)) as pages:
        while ids < 200:
            first = asyncio.create_task(pages.pages(ids))
            await settle()
            result.release(ids)
            received = await first
            assert offsets(received)[0] == ids
            ids += count(received)
            await settle()
    assert ids == 200
    assert asyncio.all_tasks() == before


async def test_a_lowered_page_limit_stops_prefetching():
    result = Result(1000)
    async with PagePrefetcher(result, result.page_at(0)) as pages:
        first = asyncio.create_task(pages.pages(10))
        await settle()
        result.page_limit = LENGTH // 2
        result.release(10)
        assert offsets(await first) == [10]
        await settle()
        assert result.requested == [10, 20, 30, 40]


async def test_an_error_is_raised_when_its_page_is_read():
    """Pages before it are returned, and no more requests are sent."""
    result = Result(10_000)
    result.errors = {2100: RuntimeError("failed page")}
    result.release_all()
    ids = LENGTH
    async with PagePrefetcher(result, result.page_at(0)) as pages:
        while ids < 2100:
            ids += count(await pages.pages(ids))
            await asyncio.sleep(0.005)
        with pytest.raises(RuntimeError, match="failed page"):
            await pages.pages(2100)
    assert ids == 2100
    assert max(result.requested) <= 2100 + LENGTH * (PAGES_IN_FLIGHT - 1)


async def test_an_empty_page_causes_a_pause():
    result = Result(30)
    result.release_all()
    result.lengths = {10: 0}
    async with PagePrefetcher(result, result.page_at(0)) as pages:
        [empty] = await pages.pages(10)
        assert (empty.session_ids, result.pauses) == ((), 0)
        assert offsets(await pages.pages(10)) == [10, 20]
        assert result.pauses == 1


async def test_leaving_early_cancels_the_requests_in_flight():
    before = asyncio.all_tasks()
    result = Result(1000)
    async with PagePrefetcher(result, result.page_at(0)) as pages:
        result.release(10)
        await pages.pages(10)
        assert len(asyncio.all_tasks() - before) == PAGES_IN_FLIGHT
    assert asyncio.all_tasks() == before


async def test_no_request_is_sent_after_leaving():
    """A task that has not started yet is cancelled too."""
    before = asyncio.all_tasks()
    result = Result(10_000)
    result.release_all()
    ids = LENGTH
    async with PagePrefetcher(result, result.page_at(0)) as pages:
        for _ in range(5):
            ids += count(await pages.pages(ids))
            await asyncio.sleep(0.005)
        ids += count(await pages.pages(ids))
        requested = len(result.requested)
        assert len(asyncio.all_tasks() - before) == PAGES_IN_FLIGHT
    await settle()
    assert asyncio.all_tasks() == before
    assert len(result.requested) == requested


@given(
    total=st.integers(0, 60 * LENGTH),
    short=st.dictionaries(st.integers(0, 60 * LENGTH), st.integers(0, LENGTH - 1), max_size=4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_all_ids_are_returned_once_and_in_order_for_any_pages(total, short, seed):
    """Pages have any length and arrive in any order; each short one makes few requests useless."""
    asyncio.run(read_all(total, dict(short), random.Random(seed)))


async def read_all(total, short, rng):
    result = Result(total)
    result.lengths = short
    shorts = len(short)

    async def release_some():
        while True:
            waiting = [at for at in result.requested if not result._released[at].is_set()]
            result.release(*rng.sample(waiting, rng.randint(0, len(waiting))))
            await asyncio.sleep(0)

    before = asyncio.all_tasks()
    releasing = asyncio.create_task(release_some())
    first = result.page_at(0)
    ids = list(first.session_ids)
    needed = 0
    async with PagePrefetcher(result, first) as pages:
        while len(ids) < total:
            for _ in range(rng.randint(0, 20)):  # the disk is busy
                await asyncio.sleep(0)
            received = await pages.pages(len(ids))
            needed += len(received)
            ids += [session_id for page in received for session_id in page.session_ids]
    assert asyncio.all_tasks() - before == {releasing}
    releasing.cancel()
    assert ids == list(map(str, range(total)))
    assert len(result.requested) - needed <= shorts * (PAGES_IN_FLIGHT - 1)

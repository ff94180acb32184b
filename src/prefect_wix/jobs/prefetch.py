"""Fetch the pages of one result ahead of the reader, so that round trips overlap."""

from __future__ import annotations

import asyncio
from typing import Self

from prefect_wix.client.models import JobPage
from prefect_wix.jobs.polling import JobResult

__all__ = ["PagePrefetcher"]
PAGES_IN_FLIGHT = 4
"""Pages of one job, counted from the first that has not come, that are asked for at once: enough to
hide the round trip."""
PAGES_AHEAD = 32
"""Pages of one job that are on their way or wait to be taken in. As many again may be at hand, just
taken in: some 6 MB of ids in all."""


class PagePrefetcher:
    """The pages of one drain, asked for ahead of their turn. Use it as ``async with``.

    Where the total is known, so are the pages to come, as long as each is as long as it may be.
    After one that is not, nothing more is asked for ahead until the next that is. What comes
    while nobody takes it is kept: up to as many pages as came before, and to `PAGES_AHEAD`.

    Args:
        result: whose pages.
        first: the page that was received already.
    """

    def __init__(self, result: JobResult, first: JobPage) -> None:
        self._result = result
        self._length = result.page_limit
        self._next = self._end = first.total or 0
        self._ahead: dict[int, asyncio.Task[JobPage]] = {}
        self._last = first

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._drop()

    async def pages(self, offset: int) -> list[JobPage]:
        """The page that begins after ``offset`` ids, and those behind it that have come already.

        Waits a little after an empty page, which is always the last of its list.

        Raises:
            See `JobResult.page`.
        """
        if not self._last.session_ids:
            await self._result.pause()
        if self._is_full(self._last) and offset not in self._ahead:
            await self._begin(offset)
        page = await (self._ahead.get(offset) or self._result.page(offset))
        pages = self._take(offset, page)
        self._last = pages[-1]
        self._prefetch()
        return pages

    def _take(self, offset: int, page: JobPage) -> list[JobPage]:
        """The page, and those in step with it that have come. An error waits for its turn."""
        pages = [page]
        self._ahead.pop(offset, None)
        offset += len(page.session_ids)
        while (task := self._ahead.get(offset)) and task.done() and not task.exception():
            del self._ahead[offset]
            pages.append(task.result())
            offset += len(pages[-1].session_ids)
        return pages

    async def _begin(self, offset: int) -> None:
        await self._drop()  # what is left was asked for out of step
        self._next = offset
        self._prefetch()

    async def _drop(self) -> None:
        self._stop()
        for task in self._ahead.values():
            task.cancel()
        await asyncio.gather(*self._ahead.values(), return_exceptions=True)
        self._ahead.clear()

    def _stop(self) -> None:
        self._next = self._end

    def _prefetch(self) -> None:
        on_their_way = (offset for offset, task in self._ahead.items() if not task.done())
        missing, first = min(on_their_way, default=self._next), min(self._ahead, default=self._next)
        few, many = PAGES_IN_FLIGHT * self._length, PAGES_AHEAD * self._length
        # As much as lies before: a result that never moves on is found out by a few pages.
        end = min(self._end, missing + few, first + min(max(few, first), many))
        for offset in range(self._next, end, self._length):
            self._ahead[offset] = asyncio.create_task(self._record(offset))
            self._ahead[offset].add_done_callback(lambda _: self._prefetch())
            self._next = offset + self._length

    async def _record(self, offset: int) -> JobPage:
        try:
            page = await self._result.page(offset)
        except BaseException:
            self._stop()
            raise
        # Before others go on: they look at what is done.
        if not self._is_full(page):
            self._stop()
        return page

    def _is_full(self, page: JobPage) -> bool:
        return len(page.session_ids) == self._length == self._result.page_limit

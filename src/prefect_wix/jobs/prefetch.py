"""Fetch the pages of one result ahead of the reader, so that round trips overlap.

How one page is fetched is in `prefect_wix.jobs.polling`.
"""

import asyncio
from typing import Self

from prefect_wix.client.models import JobPage
from prefect_wix.jobs.polling import JobReader

PAGES_IN_FLIGHT = 4
"""Concurrent page requests of one job, counted from the first page not received: enough to hide the
round trip."""
PAGES_AHEAD = 32
"""Pages of one job that are in flight or buffered. The reader may process as many again: about 6 MB
of IDs in total."""


class PagePrefetcher:
    """The pages of one pass over a result, fetched ahead. Use it as ``async with``.

    While pages are full, the total determines the offsets of all later pages. After a page that is
    not full, nothing is fetched ahead until the next full one. Pages not yet read are buffered: at
    most as many as were read before, and at most `PAGES_AHEAD`.

    Args:
        result: the result of a finished job.
        first: its first page, already received.
    """

    def __init__(self, result: JobReader, first: JobPage) -> None:
        self._result = result
        self._length = result.page_limit
        self._next = self._end = first.total or 0
        self._ahead: dict[int, asyncio.Task[JobPage]] = {}
        self._last = first

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._cancel()

    async def pages(self, offset: int) -> list[JobPage]:
        """The page that starts after ``offset`` IDs, and the pages after it already received.

        An empty page is always the last of the list; the next call then pauses before it fetches.

        Raises:
            See `JobReader.page`.
        """
        if not self._last.session_ids:
            await self._result.pause()
        if self._is_full(self._last) and offset not in self._ahead:
            await self._cancel()  # the buffered offsets are no longer page boundaries
            self._next = offset
            self._prefetch()
        page = await (self._ahead.get(offset) or self._result.page(offset))
        pages = self._take(offset, page)
        self._last = pages[-1]
        self._prefetch()
        return pages

    def _take(self, offset: int, page: JobPage) -> list[JobPage]:
        """The page and the received pages that follow it without a gap or an error."""
        pages = [page]
        self._ahead.pop(offset, None)
        offset += len(page.session_ids)
        while (task := self._ahead.get(offset)) and task.done() and not task.exception():
            del self._ahead[offset]
            pages.append(task.result())
            offset += len(pages[-1].session_ids)
        return pages

    async def _cancel(self) -> None:
        self._next = self._end
        for task in self._ahead.values():
            task.cancel()
        await asyncio.gather(*self._ahead.values(), return_exceptions=True)
        self._ahead.clear()

    def _prefetch(self) -> None:
        in_flight = (offset for offset, task in self._ahead.items() if not task.done())
        missing, first = min(in_flight, default=self._next), min(self._ahead, default=self._next)
        window, buffer = PAGES_IN_FLIGHT * self._length, PAGES_AHEAD * self._length
        # No more than already read: a result that repeats itself costs few requests.
        end = min(self._end, missing + window, first + min(max(window, first), buffer))
        for offset in range(self._next, end, self._length):
            self._ahead[offset] = asyncio.create_task(self._fetch(offset))
            self._ahead[offset].add_done_callback(lambda _: self._prefetch())
            self._next = offset + self._length

    async def _fetch(self, offset: int) -> JobPage:
        try:
            page = await self._result.page(offset)
        except BaseException:
            self._next = self._end
            raise
        # Before this task is done: its callback fetches ahead.
        if not self._is_full(page):
            self._next = self._end
        return page

    def _is_full(self, page: JobPage) -> bool:
        return len(page.session_ids) == self._length == self._result.page_limit

"""Work that a cancellation waits for: short, and worth nothing when it is half done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from anyio import CancelScope

__all__ = ["shield", "shield_in_thread"]

T = TypeVar("T")


async def shield(work: Awaitable[T]) -> T:
    """The result of the work, which goes on to its end also when the caller is cancelled.

    The caller waits for that, however often it is cancelled: what the work needs stays there.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _end_of(task)
        # Whoever cancelled has no use for how it ended; asyncio would log it as never looked at.
        if not task.cancelled():
            task.exception()
        raise


async def _end_of(task: asyncio.Future[T]) -> None:
    # AnyIO, and so a timeout of Prefect's, cancels over and over, but not in a shield.
    with CancelScope(shield=True):
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])


async def shield_in_thread(work: Callable[[], T]) -> T:
    """The same for blocking work, in a thread."""
    return await shield(asyncio.to_thread(work))

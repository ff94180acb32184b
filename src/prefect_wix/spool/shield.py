"""Short work that must not stop halfway: a cancellation is delayed until the work is done."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from anyio import CancelScope

T = TypeVar("T")


async def shield(work: Awaitable[T]) -> T:
    """Await the work; if the caller is cancelled, wait for the work to end and then cancel.

    Repeated cancellations wait too, so that the caller keeps open what the work uses.

    Raises:
        CancelledError: the caller was cancelled; result and exception of the work are dropped.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # AnyIO, and therefore a Prefect timeout, repeats a cancellation until the task ends, except
        # in a shielded scope.
        with CancelScope(shield=True):
            while not task.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
        # Retrieve the exception so that asyncio does not log "exception was never retrieved".
        if not task.cancelled():
            task.exception()
        raise


async def shield_in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread, as `shield` does."""
    return await shield(asyncio.to_thread(work))

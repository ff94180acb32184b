"""Short work that must not stop halfway: a cancellation is delayed until the work is done.

The delay is bounded, since a database or a disk may not respond.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from anyio import CancelScope

T = TypeVar("T")

SHIELD_SECONDS = 10.0
"""How long a cancellation waits for the work, and then for the end of the cancelled work."""


async def shield(work: Awaitable[T]) -> T:
    """Await the work; if the caller is cancelled, wait for the work to end and then cancel.

    Repeated cancellations wait too, so that the caller keeps open what the work uses. Work that has
    not ended after `SHIELD_SECONDS` is cancelled, and left alone after as many seconds again.

    Raises:
        CancelledError: the caller was cancelled; result and exception of the work are dropped.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # Retrieve the exception so that asyncio does not log "exception was never retrieved".
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        # AnyIO, and therefore a Prefect timeout, repeats a cancellation until the task ends, except
        # in a shielded scope.
        with CancelScope(shield=True):
            await _wait(task)
            task.cancel()
            await _wait(task)
        raise


async def _wait(task: asyncio.Future[T]) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SHIELD_SECONDS
    while not task.done() and (seconds := deadline - loop.time()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task], timeout=seconds)


async def shield_in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread, as `shield` does.

    Nothing can cancel a thread. Work that outlasts the wait goes on: it commits, or fails when it
    next reads the spool that its caller has closed. The process ends after the thread.
    """
    return await shield(asyncio.to_thread(work))

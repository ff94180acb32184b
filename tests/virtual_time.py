"""An event loop in virtual time, for simulations of whole loads: hours pass in seconds.

While no callback is ready, the loop advances its time instead of waiting. Sleeps of the loop and of
`LoopClock` are virtual; the loop waits for work in threads, which takes no virtual time.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from contextlib import contextmanager


class _Selector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout=None):
        if self.loop.in_threads:
            return super().select(0.05 if timeout is None or timeout > 0 else 0)
        if self.loop.in_real_time:
            started = time.monotonic()
            events = super().select(0.05 if timeout is None else min(timeout, 0.05))
            self.loop.now += time.monotonic() - started
            return events
        if timeout:
            self.loop.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.now = 0.0
        self.in_threads = 0
        self.in_real_time = 0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self):
        return self.now

    def run_in_executor(self, executor, func, *args):
        self.in_threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._leave_thread)
        return future

    def _leave_thread(self, _):
        self.in_threads -= 1

    async def shutdown_default_executor(self, timeout=None):  # noqa: ASYNC109
        # Without the timeout of Python 3.12, which passes at once in virtual time.
        self.in_threads += 1
        await super().shutdown_default_executor()


@contextmanager
def real_time():
    """Time passes as on the wall, for a peer outside of the loop, such as a database server."""
    loop = asyncio.get_running_loop()
    loop.in_real_time += 1
    try:
        yield
    finally:
        loop.in_real_time -= 1


class LoopClock:
    """A `Clock` on the time of the running loop."""

    def now(self):
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)


def run(main):
    """Run a coroutine in virtual time; returns its result and its duration in seconds."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:

        async def timed():
            start = asyncio.get_running_loop().time()
            result = await main
            return result, asyncio.get_running_loop().time() - start

        return runner.run(timed())

"""A real server for the sandbox, on a thread of its own with a loop of its own."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from datetime import UTC, datetime
from random import Random
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from prefect_wix.sandbox.access import Access, Identity, guid
from prefect_wix.sandbox.app import TRANSPORT, build
from prefect_wix.sandbox.faults import Fault, Faults
from prefect_wix.sandbox.rules import Rules
from prefect_wix.sandbox.sandbox import Sandbox
from prefect_wix.sandbox.service import Wix
from prefect_wix.sandbox.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from starlette.types import Receive, Scope, Send


@contextmanager
def running(
    world: World | None = None,
    *,
    faults: Iterable[Fault] = (),
    rules: Rules | None = None,
    job_seconds: float | tuple[float, float] = 0.0,
    requests_per_minute: int | None = None,
    seed: int = 7,
    now: datetime | Callable[[], datetime] | None = None,
    sites: int | Mapping[str, World] = 1,
    host: str = "127.0.0.1",
    port: int = 0,
) -> Iterator[Sandbox]:
    """Run a sandbox until the block is left. Several may run in one process.

    `world` holds the main site's sessions (`World.generate(seed)` by default). A job takes
    `job_seconds`, one number or drawn from (least, most). `requests_per_minute` is each site's
    budget, None for no limit. `now` is the server's clock, an aware datetime that stands still or
    a function; it decides what has happened yet, predefined periods and the end of tokens. `sites`
    is the number of sites in the account, where all but the main one are empty, or the worlds of
    further sites by site id. `port` 0 is any free port.
    """
    identity = Identity.of(seed)
    worlds = {identity.site_id: World.generate(seed) if world is None else world}
    worlds |= _further_sites(sites, seed)
    wix = Wix(
        worlds,
        Access(identity, worlds, _clock(now), requests_per_minute),
        rules=rules or Rules(),
        faults=Faults(faults, seed),
        job_seconds=job_seconds if isinstance(job_seconds, tuple) else (job_seconds, job_seconds),
        seed=seed,
    )
    with _socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
        sandbox = Sandbox(f"http://{host}:{listener.getsockname()[1]}", wix, seed)
        with _serving(build(wix, sandbox), listener):
            yield sandbox


def _socket() -> socket.socket:
    # asyncio turns Nagle's delay off (40 ms a page) only where the protocol is named.
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)


def _clock(now: datetime | Callable[[], datetime] | None) -> Callable[[], datetime]:
    if isinstance(now, datetime):
        return lambda: now
    return now or (lambda: datetime.now(UTC))


def _further_sites(sites: int | Mapping[str, World], seed: int) -> Mapping[str, World]:
    if not isinstance(sites, int):
        return sites
    random = Random(f"sites {seed}")  # noqa: S311
    return {guid(random): World() for _ in range(sites - 1)}


@contextmanager
def _serving(app: Any, listener: socket.socket) -> Iterator[None]:
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    thread = Thread(target=server.run, args=([listener],), name="wix-sandbox", daemon=True)
    thread.start()
    server.ready.wait()
    try:
        yield
    finally:
        server.stop()
        thread.join()


class _Server(uvicorn.Server):
    """A server that is told to stop from another thread instead of by a signal."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = Event()

    async def main_loop(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self.ready.set()
        await self._stopping.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)


class _Protocol(H11Protocol):
    """HTTP whose application can close the connection itself."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, TRANSPORT: transport}, receive, send)

        self.app = with_transport

    def shutdown(self) -> None:
        super().shutdown()
        self.transport.close()  # nobody is left to wait for an answer that is still under way

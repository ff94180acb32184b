"""A real HTTP server for the sandbox: routes, the record of requests, and the server's thread.

What is answered is in `service`, what goes wrong in `faults`.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from random import Random
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from prefect_wix.sandbox.access import Access, Identity, guid
from prefect_wix.sandbox.faults import Fault, Faults
from prefect_wix.sandbox.replies import EMPTY_ERROR, Refusal, Reply, reply
from prefect_wix.sandbox.requests import Call
from prefect_wix.sandbox.rules import Rules
from prefect_wix.sandbox.sandbox import RequestRecord, Sandbox
from prefect_wix.sandbox.service import Wix
from prefect_wix.sandbox.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping

    from starlette.types import Receive, Scope, Send

    Answer = Callable[[Request], Coroutine[Any, Any, Response]]

ROUTES = {
    "list": ("POST", "/analytics/v1/sessions/list/async"),
    "result": ("GET", "/analytics/v1/sessions/list/result"),
    "recorded": ("POST", "/analytics/v1/sessions/session-recorded"),
    "deleted": ("POST", "/analytics/v1/sessions/recordings-deleted"),
    "token": ("POST", "/oauth2/token"),
    "properties": ("GET", "/site-properties/v4/properties"),
    "data": ("GET", "/analytics/v2/site-analytics/data"),
    "sites": ("POST", "/site-list/v2/sites/query"),
}
"""Method and path of each endpoint."""

TRANSPORT = "transport"
"""Where the ASGI scope holds the connection's transport."""


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


def build(wix: Wix, sandbox: Sandbox) -> FastAPI:
    """The application of one sandbox."""
    app = FastAPI(title="Wix sandbox", openapi_url=None)
    for endpoint, (method, path) in ROUTES.items():
        app.add_api_route(path, _endpoint(endpoint, wix, sandbox), methods=[method])
    _add_control(app, sandbox)
    app.add_exception_handler(HTTPException, _nowhere)
    return app


def _endpoint(endpoint: str, wix: Wix, sandbox: Sandbox) -> Answer:
    async def serve(request: Request) -> Response:
        at = time.monotonic()
        call = await _call(endpoint, request)
        await _linger(request, wix.faults.delay(call))
        made, job_id = _answer(wix, call)
        status = None if made.delivery == "never" else made.status
        body = _json(call.content)
        sandbox.note(RequestRecord(endpoint, call.method, at, status, body, call.params, job_id))
        return _Departure(made)

    return serve


async def _call(endpoint: str, request: Request) -> Call:
    params: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        params[name] = f"{params[name]},{value}" if name in params else value
    return Call(endpoint, request.method, request.headers, params, await request.body())


async def _linger(request: Request, seconds: float) -> None:
    """Be late, but not for a caller who has gone."""
    if seconds:
        with suppress(TimeoutError):
            await asyncio.wait_for(request.receive(), seconds)


def _answer(wix: Wix, call: Call) -> tuple[Reply, str | None]:
    """The reply, and the job that it is about."""
    job_id = call.params.get("jobId")
    if early := wix.faults.instead(call):
        return early, job_id
    try:
        told = wix.answer(call)
    except Refusal as refusal:
        return wix.faults.deliver(call, reply(refusal.status, refusal.body)), job_id
    return wix.faults.deliver(call, reply(200, told)), told.get("jobId", job_id)


def _json(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


_numbers = itertools.count(1)


class _Departure(Response):
    """A reply on its way out, with the request id that every answer of Wix carries."""

    def __init__(self, made: Reply) -> None:
        headers = {**made.headers, "x-wix-request-id": f"{time.time():.6f}.{next(_numbers)}"}
        super().__init__(made.body, made.status, headers, made.content_type)
        self.delivery = made.delivery

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match self.delivery:
            case "whole":
                await super().__call__(scope, receive, send)
            case "cut":
                await self._send_half(send)
                await _close(scope, receive)
            case "never":
                await _close(scope, receive)

    async def _send_half(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send(start | {"headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})


async def _close(scope: Scope, receive: Receive) -> None:
    """Close the connection, and stay until the server knows that it is closed."""
    scope[TRANSPORT].close()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _nowhere(_: Request, error: Exception) -> Response:
    """Answer a path or method that Wix does not have."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _Departure(reply(status, EMPTY_ERROR))


def _add_control(app: FastAPI, sandbox: Sandbox) -> None:
    """Add the pages for a caller in another process; they are not part of Wix."""

    async def state(_: Request) -> Response:
        return _Departure(reply(200, sandbox.state()))

    async def faults(request: Request) -> Response:
        try:
            sandbox.faults = [Fault.parse(text) for text in orjson.loads(await request.body())]
        except (ValueError, TypeError, AttributeError) as error:
            return _Departure(reply(400, {"message": str(error), "details": {}}))
        return _Departure(reply(200, {}))

    async def reset(_: Request) -> Response:
        sandbox.reset_counts()
        return _Departure(reply(200, {}))

    app.add_api_route("/sandbox/state", state, methods=["GET"])
    app.add_api_route("/sandbox/faults", faults, methods=["POST"])
    app.add_api_route("/sandbox/reset", reset, methods=["POST"])

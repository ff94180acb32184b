"""The HTTP server of a sandbox: its thread, its routes, and how a response is sent.

`service` defines the responses, `faults` the errors to inject.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from random import Random
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from prefect_wix.sandbox.access import AccessControl, Credentials, guid
from prefect_wix.sandbox.faults import Fault, Faults
from prefect_wix.sandbox.requests import ApiRequest
from prefect_wix.sandbox.responses import EMPTY_ERROR, ApiError, ApiResponse, json_response
from prefect_wix.sandbox.rules import Rules
from prefect_wix.sandbox.sandbox import RequestRecord, Sandbox
from prefect_wix.sandbox.service import Service
from prefect_wix.sandbox.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping

    from starlette.types import Receive, Scope, Send

    Handler = Callable[[Request], Coroutine[Any, Any, Response]]

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
"""The method and path of each endpoint."""

_TRANSPORT = "transport"
"""The key of the connection's transport in the ASGI scope."""


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
    """Run a sandbox until the block ends. One process can run several.

    Args:
        world: The sessions of the main site, by default `World.generate(seed)`.
        faults: The faults to inject.
        rules: The behaviour that Wix does not document.
        job_seconds: The duration of a job: a number, or a random number from (min, max).
        requests_per_minute: The rate limit of each site. None means no limit.
        seed: The seed of the credentials, site IDs and faults. Job IDs are random.
        now: The server's clock, by default the real time: a fixed aware datetime or a function.
            It determines which sessions have arrived, predefined periods and token expiry.
        sites: The number of sites of the account, all but the main site without sessions; or the
            worlds of additional sites by site ID.
        host: The address to listen on.
        port: The port to listen on, 0 for any free port.
    """
    credentials, rules = Credentials.from_seed(seed), rules or Rules()
    worlds = {credentials.site_id: World.generate(seed) if world is None else world}
    worlds |= _additional_sites(sites, seed)
    service = Service(
        worlds,
        AccessControl(credentials, worlds, _clock(now), requests_per_minute, rules),
        rules=rules,
        faults=Faults(faults, seed),
        job_seconds=job_seconds if isinstance(job_seconds, tuple) else (job_seconds, job_seconds),
        seed=seed,
    )
    with _socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(listener, host, port)
        listener.listen()
        sandbox = Sandbox(f"http://{host}:{listener.getsockname()[1]}", service, seed)
        with _serving(_build_app(service, sandbox), listener):
            yield sandbox


def _socket() -> socket.socket:
    # asyncio sets TCP_NODELAY only for an explicit protocol. Without it a page takes 40 ms more.
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)


def _bind(listener: socket.socket, host: str, port: int) -> None:
    try:
        listener.bind((host, port))
    except OSError as error:
        raise OSError(
            f"The sandbox can't listen on {host}:{port} ({error.strerror or error}). "
            "Choose another port, or 0 for any free one."
        ) from error


def _clock(now: datetime | Callable[[], datetime] | None) -> Callable[[], datetime]:
    if isinstance(now, datetime):
        return lambda: now
    return now or (lambda: datetime.now(UTC))


def _additional_sites(sites: int | Mapping[str, World], seed: int) -> Mapping[str, World]:
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
    """A server that another thread can stop, without a signal."""

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
    """HTTP/1.1 with the connection's transport in the ASGI scope, so that the app can close it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            path = re.sub("/+", "/", scope["path"]).rstrip("/")  # as Wix does
            await app({**scope, "path": path, _TRANSPORT: transport}, receive, send)

        self.app = with_transport

    def shutdown(self) -> None:
        super().shutdown()
        self.transport.close()  # uvicorn would wait for pending responses


def _build_app(service: Service, sandbox: Sandbox) -> FastAPI:
    app = FastAPI(title="Wix sandbox", openapi_url=None)
    for endpoint, (method, path) in ROUTES.items():
        app.add_api_route(path, _route_handler(endpoint, service, sandbox), methods=[method])
    _add_control_routes(app, sandbox)
    app.add_exception_handler(HTTPException, _handle_unknown_route)
    return app


def _route_handler(endpoint: str, service: Service, sandbox: Sandbox) -> Handler:
    async def handle(http_request: Request) -> Response:
        at = time.monotonic()
        request = await _read_request(endpoint, http_request)
        await _delay(http_request, service.faults.delay(request))
        response, job_id = _respond(service, request)
        status = None if response.delivery == "never" else response.status
        body = None
        with suppress(orjson.JSONDecodeError):
            body = orjson.loads(request.content)
        sandbox.add_record(
            RequestRecord(endpoint, request.method, at, status, body, request.params, job_id)
        )
        return _HTTPResponse(response)

    return handle


async def _read_request(endpoint: str, request: Request) -> ApiRequest:
    params: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        params[name] = f"{params[name]},{value}" if name in params else value
    return ApiRequest(endpoint, request.method, request.headers, params, await request.body())


async def _delay(request: Request, seconds: float) -> None:
    """Wait, or return early if the client disconnects."""
    if seconds:
        with suppress(TimeoutError):
            await asyncio.wait_for(request.receive(), seconds)


def _respond(service: Service, request: ApiRequest) -> tuple[ApiResponse, str | None]:
    """Return the response and the ID of the job that the request creates or names."""
    job_id = request.params.get("jobId")
    faults = service.faults
    if replacement := faults.replacement(request):
        return replacement, job_id
    try:
        body = service.handle(request)
    except ApiError as error:
        return faults.change_response(request, json_response(error.status, error.body)), job_id
    return faults.change_response(request, json_response(200, body)), body.get("jobId", job_id)


class _HTTPResponse(Response):
    """Sends an `ApiResponse` with a request ID, which every response of Wix carries."""

    def __init__(self, response: ApiResponse) -> None:
        headers = {**response.headers, "x-wix-request-id": str(uuid4())}
        super().__init__(response.body, response.status, headers, response.content_type)
        self.delivery = response.delivery

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
    """Close the connection and wait until uvicorn has noticed it."""
    scope[_TRANSPORT].close()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _handle_unknown_route(_: Request, error: Exception) -> Response:
    """Return the error for a path or method that does not exist."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _HTTPResponse(json_response(status, EMPTY_ERROR))


def _add_control_routes(app: FastAPI, sandbox: Sandbox) -> None:
    """Add routes that are not part of Wix: another process controls the sandbox with them."""

    async def state(_: Request) -> Response:
        return _HTTPResponse(json_response(200, sandbox.state()))

    async def faults(request: Request) -> Response:
        try:
            sandbox.faults = [Fault.parse(text) for text in orjson.loads(await request.body())]
        except (ValueError, TypeError, AttributeError) as error:
            return _HTTPResponse(json_response(400, {"message": str(error), "details": {}}))
        return _HTTPResponse(json_response(200, {}))

    async def reset(_: Request) -> Response:
        sandbox.reset_counts()
        return _HTTPResponse(json_response(200, {}))

    app.add_api_route("/sandbox/state", state, methods=["GET"])
    app.add_api_route("/sandbox/faults", faults, methods=["POST"])
    app.add_api_route("/sandbox/reset", reset, methods=["POST"])

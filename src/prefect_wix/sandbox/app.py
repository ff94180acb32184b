"""The HTTP face: routes, the record of requests, and how a reply leaves the house.

What is answered is in `service`, what goes wrong in `faults`. Closing a connection needs its
transport, which `server` puts into the ASGI scope.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from prefect_wix.sandbox.faults import Fault
from prefect_wix.sandbox.replies import EMPTY_ERROR, Refusal, Reply, reply
from prefect_wix.sandbox.requests import Call
from prefect_wix.sandbox.sandbox import RequestRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.types import Receive, Scope, Send

    from prefect_wix.sandbox.sandbox import Sandbox
    from prefect_wix.sandbox.service import Wix

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

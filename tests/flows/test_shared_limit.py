"""Without the limit on the Prefect server, requests are limited by the process alone."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from prefect_wix.blocks.shared_limit import SharedLimit

LOG = logging.getLogger("prefect_wix.test")
GRANTED = (200, f'[{{"id": "{uuid4()}", "name": "wix-site", "limit": 5}}]')
INVALID = (200, '{"invalid": 1}')
UNAVAILABLE = (503, "")


@contextmanager
def prefect_with_responses(*responses):
    """A server that returns these responses, one after the other, to requests for slots."""
    remaining = list(responses)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def do_POST(self):
            status, body = remaining.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    with prefect_at(f"http://127.0.0.1:{server.server_port}/api"):
        yield remaining
    server.shutdown()
    server.server_close()
    thread.join()


def prefect_at(api):
    return temporary_settings({PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 0})


async def acquire_slots(times):
    global_limiter = SharedLimit(str(uuid4()), LOG)
    for _ in range(times):
        await global_limiter(1)


def messages(caplog):
    return [one.getMessage() for one in caplog.records if one.name == LOG.name]


def is_reported_once(caplog):
    (warning,) = messages(caplog)
    return "until the Prefect server grants" in warning and "in this process only" in warning


async def test_an_unreachable_server_is_reported_once(caplog):
    """The load continues, and the log has one warning."""
    with prefect_at("http://127.0.0.1:9/api"):
        await acquire_slots(2)
    assert is_reported_once(caplog)


@pytest.mark.parametrize("response", [UNAVAILABLE, INVALID])
async def test_an_error_response_is_reported_once(response, caplog):
    """Three error responses give one warning."""
    with prefect_with_responses(*[response] * 3):
        await acquire_slots(3)
    assert is_reported_once(caplog)


async def test_an_available_server_is_used_again(caplog):
    """A second outage gives a second warning."""
    responses = (UNAVAILABLE, UNAVAILABLE, GRANTED, GRANTED, UNAVAILABLE)
    with prefect_with_responses(*responses) as remaining:
        await acquire_slots(5)
    assert remaining == []
    assert len(messages(caplog)) == 2


async def test_a_missing_limit_is_reported_once(caplog):
    """The warning has the command that creates the limit."""
    await acquire_slots(3)
    (warning,) = messages(caplog)
    assert "prefect-wix setup" in warning

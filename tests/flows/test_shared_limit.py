"""Where the Prefect server can't be asked, a load goes on with the budget of its own process."""

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
ODD = (200, '{"odd": 1}')
BUSY = (503, "")


@contextmanager
def prefect_that_answers(*answers):
    """A server that gives these answers, one after the other, to those who want slots."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def do_POST(self):
            status, body = left.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    with asking_at(f"http://127.0.0.1:{server.server_port}/api"):
        yield left
    server.shutdown()
    server.server_close()
    thread.join()


def asking_at(api):
    return temporary_settings({PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 0})


async def pass_often(times):
    global_limiter = SharedLimit(str(uuid4()), LOG)
    for _ in range(times):
        await global_limiter(1)


def said(caplog):
    return [one.getMessage() for one in caplog.records if one.name == LOG.name]


def is_told_of_once(caplog):
    (warning,) = said(caplog)
    return "can't be asked for" in warning and "in this process only" in warning


async def test_a_server_that_is_away_is_told_of_once(caplog):
    """It stops no load, and fills no log."""
    with asking_at("http://127.0.0.1:9/api"):
        await pass_often(2)
    assert is_told_of_once(caplog)


@pytest.mark.parametrize("answer", [BUSY, ODD])
async def test_a_server_that_answers_oddly_is_told_of_once(answer, caplog):
    with prefect_that_answers(*[answer] * 3):
        await pass_often(3)
    assert is_told_of_once(caplog)


async def test_a_server_that_is_back_is_asked_again(caplog):
    """And one that goes once more is told of once more."""
    with prefect_that_answers(BUSY, BUSY, GRANTED, GRANTED, BUSY) as left:
        await pass_often(5)
    assert left == []
    assert len(said(caplog)) == 2


async def test_a_limit_that_is_not_there_is_told_of_once(caplog):
    """How to make it is said; there is nothing to be asked for until then."""
    await pass_often(3)
    (warning,) = said(caplog)
    assert "python -m blocks" in warning

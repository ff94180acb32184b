"""A server repeats every secret that it receives, in every part of every response."""

from __future__ import annotations

import base64
import json
import logging
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import quote, urlsplit

import pytest

from prefect_wix import (
    SessionsQuery,
    SessionsWarehouse,
    WixAccountCredentials,
    WixAppCredentials,
    WixCredentials,
)
from prefect_wix.client.models import MarkAction
from prefect_wix.errors import WixError
from prefect_wix.flows.list_sessions import list_sessions
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.flows.load_sites import load_sites
from prefect_wix.flows.mark_recordings import mark_recordings
from tests.flows.test_secrets import PASSWORD, chain_of, pieces_of_password

DAY, NEXT = date(2024, 3, 1), date(2024, 3, 2)
QUERY = SessionsQuery(start_date=DAY, end_date=NEXT, device_type="ALL", timezone="Etc/UTC")
SECRET = "IST.q7Zx/9vKw+3mPfT8LrYc2Jd5Hn0Gb"
ACCEPTED = ("/oauth2/token", "/site-list/v2/sites/query")
CASES = [(200, ()), (302, ()), (401, ()), (418, ()), (400, ACCEPTED), (200, ACCEPTED)]
"""The status of the responses, and the paths that respond with 200."""
PIECE = 8
"""A piece of a secret with this many characters must not appear anywhere."""


def echoes(secret):
    """The secret as a server may repeat it: as it is, cut, escaped or encoded."""
    yield from (secret, secret[3:21], secret.upper(), quote(secret, safe=""))
    yield base64.b64encode(f"key {secret}".encode()).decode()
    yield secret.encode().hex()
    yield "".join(f"&#{ord(one)};" for one in secret)
    yield "".join(f"\\u{ord(one):04x}" for one in secret)


class Echo(BaseHTTPRequestHandler):
    """Responds with a status, and repeats the secrets of the request in headers and body."""

    status = 400

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        secret = self.headers.get("authorization") or json.loads(body)["client_secret"]
        text = " ".join(echoes(secret))
        path = urlsplit(self.path).path
        status = 200 if path in self.server.accepted else self.status
        content = {
            "message": text,
            "error": text,
            "access_token": secret[:12] + "a-new-token",
            "expires_in": text,
            "jobId": text,
            "result": {"jobStatus": text, "total": text, "sessionIds": [text]},
            "properties": {"timeZone": text},
            "data": [{"type": "TOTAL_SESSIONS", "values": [{"date": text, "value": text}]}],
            "sites": [
                {"id": "site", "name": f"{text} {{account.api_key._secret_value}} {{50%"},
            ],
            "details": {
                "applicationError": {"code": text, "description": text},
                "validationError": {
                    "fieldViolations": [
                        {"field": one, "description": one, "ruleName": one, "data": {one: one}}
                        for one in echoes(secret)
                    ]
                },
            },
        }
        sent = json.dumps(content).replace("/", "\\/").encode()
        self.send_response(status, secret)
        for name in ("x-wix-request-id", "set-cookie", "location", "x-echo"):
            self.send_header(name, text)
        self.send_header("content-type", f"application/json; {secret}")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_):
        """Log nothing."""


@contextmanager
def echo_server(status, *accepted):
    """The base URL of a server that responds with the status, and 200 on the accepted paths."""
    handler = type("Echo", (Echo,), {"status": status})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.accepted = accepted
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


async def run_all(url, warehouse):
    """Every flow with every kind of credentials; the texts of all errors."""
    options = {"base_url": url, "requests_per_minute": 100_000}
    key = WixCredentials(api_key=SECRET, site_id="site", **options)
    app = WixAppCredentials(app_id="app", app_secret=SECRET, instance_id="site", **options)
    account = WixAccountCredentials(api_key=SECRET, account_id="account", **options)
    for block in (key, app, account):
        await block.save("echo", overwrite=True)
    load = {"start_date": DAY, "end_date": NEXT, "segments": ["device_type=ALL"]}
    texts = []
    for run in (
        list_sessions(key, QUERY),
        list_sessions(app, QUERY),
        load_sessions(key, warehouse, **load),
        load_sites(account, warehouse, load | {"timezone": "Etc/UTC"}),
        mark_recordings(key, warehouse, MarkAction.RECORDED, query="SELECT 'a' AS session_id"),
    ):
        try:
            texts.append(repr(await run))
        except (WixError, ValueError) as error:
            texts.extend(chain_of(error))
    return texts


async def test_no_echoed_secret_is_stored_or_logged(prefect_server, tmp_path, caplog, monkeypatch):
    """Searched: the server's tables and files, run names, artifacts, logs at DEBUG, the errors."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    warehouse = SessionsWarehouse(url=f"duckdb:///{tmp_path}/sessions.duckdb")
    texts = []
    for status, accepted in CASES:
        with echo_server(status, *accepted) as url:
            texts += await run_all(url, warehouse)
    assert len(texts) >= 4 * len(CASES), "the runs did not fail"
    contents = await prefect_server.contents()
    assert b"load-sites" in contents, "the server has no runs to search"
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    places = {
        "errors": "\n".join(texts),
        "logs": caplog.text,
        "server": contents.decode(errors="replace"),
        "files": b"\n".join(files).decode(errors="replace"),
    }
    assert [place for place, text in places.items() if pieces_in(text)] == []


def pieces_in(text):
    """The pieces of the secret in a text, in any of the forms in which the server repeats it."""
    forms = [SECRET, SECRET.encode().hex(), base64.b64encode(f"key {SECRET}".encode()).decode()[6:]]
    folded = text.lower()
    return {
        form[start : start + 2 * PIECE]
        for form in forms
        for start in range(len(form) - 2 * PIECE)
        if form[start : start + 2 * PIECE].lower() in folded
    } | {
        SECRET[start : start + PIECE]
        for start in range(len(SECRET) - PIECE)
        if SECRET[start : start + PIECE] in text
    }


@pytest.mark.parametrize("echo", [*echoes(SECRET)])
def test_the_search_finds_what_the_server_repeats(echo):
    """A precondition of the test above."""
    if not echo.startswith(("&#", "\\u")):
        assert pieces_in(f"before {echo} after")


async def test_a_refused_database_password_is_not_stored_or_logged(
    postgres_server, credentials, prefect_server, caplog
):
    """A real PostgreSQL refuses the password; no piece of it is left anywhere."""
    caplog.set_level(logging.DEBUG)
    url = f"postgresql://somebody:{PASSWORD}@127.0.0.1:{postgres_server.port}/postgres"
    warehouse = SessionsWarehouse(url=url)
    await warehouse.save("refused", overwrite=True)
    with pytest.raises(WixError) as caught:
        await load_sessions(credentials, warehouse, DAY, NEXT)
    contents = await prefect_server.contents()
    found = "".join([*chain_of(caught.value), caplog.text, contents.decode(errors="replace")])
    assert "somebody" in str(caught.value)
    assert pieces_of_password(found) == []

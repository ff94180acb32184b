"""Where requests may go: no proxy for this machine, and no cookies."""

from __future__ import annotations

import http.server
import logging
import threading

import pytest
from test_auth import TOKEN, app_serving, error_of, token
from test_client import JOB, QUERY, RawWix, raw_client, raw_response, serving

from prefect_wix.client.auth import ApiKeyAuth, AppAuth
from prefect_wix.errors import RequestNotSentError
from prefect_wix.sandbox import running

PROXY_VARIABLES = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"]


class Proxy(http.server.BaseHTTPRequestHandler):
    """A proxy that records what it receives and refuses it."""

    def refuse(self):
        self.server.received.append(f"{self.requestline} {self.headers}")
        self.send_error(502)

    do_GET = do_POST = do_CONNECT = refuse  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy(monkeypatch):
    """A proxy of the environment, for all protocols."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.received = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in PROXY_VARIABLES:
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_no_proxy_is_used_for_this_machine(proxy, host):
    """Neither for a key nor for the app secret at the token endpoint."""
    with running() as sandbox:
        url = sandbox.url.replace("127.0.0.1", host)
        key = ApiKeyAuth(sandbox.api_key, sandbox.site_id)
        app = AppAuth(sandbox.app_id, sandbox.app_secret, sandbox.instance_id, base_url=url)
        for auth in (key, app):
            async with raw_client(url, auth=auth) as client:
                assert await client.list_sessions_async(QUERY)
    assert proxy.received == []


async def test_no_proxy_is_used_for_ipv6(proxy):
    """The port is closed, so that a connection can only be refused."""
    async with raw_client("http://[::1]:1", retries=0) as client:
        error = await error_of(client.list_sessions_async(QUERY))
    assert type(error) is RequestNotSentError
    assert proxy.received == []


async def test_a_token_endpoint_on_this_machine_needs_no_proxy(proxy):
    """Also if the API is elsewhere."""
    async with RawWix(token()).running() as wix:
        auth = AppAuth("app", "secret-1234", "instance", base_url=wix.url)
        async with raw_client("https://wix.test", auth=auth, retries=0) as client:
            error = await error_of(client.list_sessions_async(QUERY))
    assert type(error) is RequestNotSentError
    assert wix.endpoints == [TOKEN]
    assert [one.split(" HTTP")[0] for one in proxy.received] == ["CONNECT wix.test:443"]
    assert "secret-1234" not in "".join(proxy.received)


async def test_another_host_is_reached_by_the_proxy_without_showing_the_key(proxy, caplog):
    caplog.set_level(logging.DEBUG)
    async with raw_client("https://wix.test", retries=0) as client:
        error = await error_of(client.list_sessions_async(QUERY))
    assert type(error) is RequestNotSentError
    assert [one.split(" HTTP")[0] for one in proxy.received] == ["CONNECT wix.test:443"]
    assert "IST.secret-canary" not in "".join(proxy.received) + caplog.text


async def test_a_cookie_is_not_sent_back():
    cookies = raw_response(body={"jobId": "j"}, set_cookie="session=1; Path=/")
    async with serving(cookies) as (wix, client):
        for _ in range(2):
            await client.list_sessions_async(QUERY)
    assert "cookie" not in wix.requests[1].headers


async def test_a_cookie_of_the_token_endpoint_is_not_sent_to_the_api():
    response = raw_response(body={"access_token": "t"}, set_cookie="session=1; Path=/")
    async with app_serving([response], JOB) as (wix, client):
        await client.list_sessions_async(QUERY)
    assert "cookie" not in wix.requests[1].headers

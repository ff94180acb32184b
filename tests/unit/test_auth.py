"""Proving who asks, and keeping the proof secret whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import traceback
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import cloudpickle
import httpx
import pytest
from pydantic import ValidationError
from test_client import (
    CALLS,
    EMPTY,
    LIST,
    PERSISTENT,
    QUERY,
    UNREADABLE,
    RawWix,
    asking,
    raw_client,
    reply,
)
from test_rate_limiter import VirtualClock

from prefect_wix.blocks.credentials import WixAppCredentials, WixCredentials
from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.client import auth as auth_module
from prefect_wix.client.auth import ApiKeyAuth, AppAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.retry import RetryPolicy
from prefect_wix.errors import (
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestError,
    RequestNotSentError,
    ResponseLostError,
    WixError,
)
from prefect_wix.jobs.listing import Listing
from prefect_wix.sandbox import Fault, World, running

CANARY = "CANARY-4f1c"
TOKEN = "POST /oauth2/token"
NO_REPEATS = RetryPolicy(times=0)
WORLD = World.generate(5, sessions=50, start=date(2024, 3, 1), days=3)


class Now:
    """The server's clock, which a test winds on."""

    def __init__(self):
        self.at = datetime(2024, 6, 1, tzinfo=UTC)

    def __call__(self):
        return self.at


@pytest.fixture
def now():
    return Now()


@pytest.fixture
def sandbox(now):
    with running(WORLD, now=now) as sandbox:
        yield sandbox


def app_client(sandbox, *, secret=None, **options):
    auth = AppAuth(
        sandbox.app_id, secret or sandbox.app_secret, sandbox.instance_id, base_url=sandbox.url
    )
    return WixClient(auth, base_url=sandbox.url, clock=VirtualClock(), **options)


@asynccontextmanager
async def app_asking(token_answers, *answers, secret=CANARY, **options):
    """A raw server whose token endpoint and API answer what they are told, and a client of it."""
    tokens, api = list(token_answers), list(answers)

    async def route(asked):
        queue = tokens if asked.path == "/oauth2/token" else api
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        return await answer(asked) if callable(answer) else answer

    async with RawWix(route).running() as wix:
        auth = AppAuth("app-1", secret, "instance-1", base_url=wix.url)
        async with raw_client(wix.url, auth=auth, **options) as client:
            yield wix, client


def minted(token="token-1", seconds=14_400):
    return reply(body={"access_token": token, "token_type": "Bearer", "expires_in": seconds})


JOB = reply(body={"jobId": "j"})
UNAUTHORIZED = reply(401, {"message": "expired", "details": {}})


# --- an API key --------------------------------------------------------------------------------


async def test_an_api_key_goes_out_raw_beside_its_site():
    """No "Bearer", and no account: Wix refuses a key that comes with both."""
    auth = ApiKeyAuth(f" {CANARY}\n", " site-9 ")
    async with asking(JOB, auth=auth) as (wix, client):
        await client.list_sessions_async(QUERY)
        assert client.site_id == "site-9"
    headers = wix.asked[0].headers
    assert (headers["authorization"], headers["wix-site-id"]) == (CANARY, "site-9")
    assert "wix-account-id" not in headers


async def test_a_wrong_key_is_refused_once_and_not_tried_again(sandbox):
    client = WixClient(ApiKeyAuth("wrong", sandbox.site_id), base_url=sandbox.url)
    async with client:
        with pytest.raises(AuthenticationError, match="Check the API key"):
            await client.get_site_timezone()
    assert sandbox.count() == 1


async def test_a_site_that_is_not_the_keys_is_a_missing_permission(sandbox):
    auth = ApiKeyAuth(sandbox.api_key, "some-other-site")
    async with WixClient(auth, base_url=sandbox.url, clock=VirtualClock()) as client:
        with pytest.raises(PermissionDeniedError, match="the site id is wrong or missing"):
            await client.get_site_timezone()
    assert sandbox.count() == 3


UNSENDABLE = [
    "",
    "  ",
    "\n",
    f"{CANARY}\nx: y",
    f"{CANARY}\r\n\r\n",
    f"{CANARY}é",
    f"{CANARY}\0",
    f"“{CANARY}”",
    f"a\t{CANARY}",
]


@pytest.mark.parametrize("text", UNSENDABLE[:4] + UNSENDABLE[5:])
def test_what_no_header_may_hold_is_refused_without_being_repeated(text):
    for make in (lambda: ApiKeyAuth(text, "site"), lambda: ApiKeyAuth("key", text)):
        with pytest.raises(ValueError, match="copy it from Wix once more") as caught:
            make()
        assert CANARY not in str(caught.value)


# --- an app's token ----------------------------------------------------------------------------


async def test_an_app_trades_its_secret_for_a_token_and_sends_that_raw():
    """As documented: a JSON claim, then the token alone, with no site beside it."""
    async with app_asking([minted()], JOB) as (wix, client):
        await client.list_sessions_async(QUERY)
        assert client.site_id == "instance-1"
    assert wix.endpoints == [TOKEN, LIST]
    assert wix.asked[0].body == {
        "grant_type": "client_credentials",
        "client_id": "app-1",
        "client_secret": CANARY,
        "instance_id": "instance-1",
    }
    assert wix.asked[0].headers["authorization"] == ""
    assert wix.asked[0].headers["content-type"] == "application/json"
    assert wix.asked[1].headers["authorization"] == "token-1"
    assert {"wix-site-id", "wix-account-id"}.isdisjoint(wix.asked[1].headers)


async def test_fifty_calls_at_once_mint_one_token(sandbox):
    async with app_client(sandbox) as client:
        await asyncio.gather(*(client.get_site_timezone() for _ in range(50)))
    assert (sandbox.tokens_minted, sandbox.count("token")) == (1, 1)
    assert sandbox.count("properties") == 50


async def test_fifty_calls_that_find_the_token_ended_mint_one_more(sandbox, now):
    async with app_client(sandbox) as client:
        await client.get_site_timezone()
        now.at += timedelta(hours=5)
        await asyncio.gather(*(client.get_site_timezone() for _ in range(50)))
    assert sandbox.tokens_minted == 2
    assert sum(one.status == 200 for one in sandbox.requests) == 53
    assert sandbox.count("properties") <= 101


async def test_a_token_that_ended_is_dropped_and_the_call_tried_once_more(sandbox, now):
    async with app_client(sandbox) as client:
        await client.list_sessions_async(QUERY)
        now.at += timedelta(hours=5)
        await client.list_sessions_async(QUERY)
    assert [(one.endpoint, one.status) for one in sandbox.requests] == [
        ("token", 200),
        ("list", 200),
        ("list", 401),
        ("token", 200),
        ("list", 200),
    ]


@pytest.mark.parametrize("call", CALLS)
async def test_a_second_401_is_the_end(call):
    """One new token and one more try, also for a write: a 401 had no effect."""
    async with app_asking([minted("one"), minted("two")], UNAUTHORIZED) as (wix, client):
        with pytest.raises(AuthenticationError) as caught:
            await CALLS[call](client)
    assert wix.endpoints == [TOKEN, call, TOKEN, call]
    assert [asked.headers["authorization"] for asked in wix.asked] == ["", "one", "", "two"]
    assert caught.value.endpoint == call


@pytest.mark.parametrize(
    ("lifetime", "renewed_after"),
    [
        (14_400, 13_800),
        (1_200, 600),
        (1_000, 500),
        (10, 5),
        (None, 13_800),
        ("soon", 13_800),
        (-5, 13_800),
    ],
)
async def test_a_token_is_renewed_ten_minutes_before_it_ends(monkeypatch, lifetime, renewed_after):
    """Half way through where it lives no longer than that; four hours where Wix does not say."""
    at = 1_000.0
    monkeypatch.setattr(auth_module, "time", SimpleNamespace(monotonic=lambda: at))
    async with app_asking([minted("one", lifetime), minted("two", lifetime)], JOB) as (wix, client):
        await client.list_sessions_async(QUERY)
        at += renewed_after - 1
        await client.list_sessions_async(QUERY)
        assert wix.endpoints.count(TOKEN) == 1
        at += 2
        await asyncio.gather(*(client.list_sessions_async(QUERY) for _ in range(10)))
    assert wix.endpoints.count(TOKEN) == 2
    assert wix.asked[-1].headers["authorization"] == "two"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, {"error": "invalid_grant", "error_description": CANARY}, "400, invalid_grant"),
        (401, {"error": "invalid_client", "error_description": CANARY}, "401, invalid_client"),
        (403, EMPTY, "403"),
        (400, b"<html>", "400"),
        (400, b"[]", "400"),
        (400, {"error": {"a": 1}}, "400"),
        (400, b"[" * 100_000, "400"),
    ],
)
async def test_a_refused_app_is_told_what_to_check(status, body, said):
    """The reason is Wix's short code; its free text could repeat what was sent."""
    async with app_asking([reply(status, body)], JOB) as (wix, client):
        with pytest.raises(AuthenticationError, match="Check the app id, the app secret") as caught:
            await client.list_sessions_async(QUERY)
    assert f"({said})" in str(caught.value)
    assert CANARY not in str(caught.value)
    assert (caught.value.endpoint, caught.value.request_id) == (TOKEN, "req-1")
    assert wix.endpoints == [TOKEN]


async def test_the_sandbox_refuses_a_wrong_secret(sandbox):
    async with app_client(sandbox, secret="wrong") as client:
        with pytest.raises(AuthenticationError, match="invalid_client"):
            await client.get_site_timezone()
    assert sandbox.count() == 1


NO_TOKEN = {
    "503": (reply(503, EMPTY), RequestNotSentError),
    "429": (reply(429, EMPTY), RateLimitError),
    "404": (reply(404, EMPTY), NotFoundError),
    "HTML": (reply(200, b"<html>", content_type="text/html"), RequestNotSentError),
    "empty": (reply(200, b""), RequestNotSentError),
    "no token": (reply(200, {}), RequestNotSentError),
    "an empty token": (minted(""), RequestNotSentError),
    "a number": (minted(5), RequestNotSentError),
    "two lines": (minted("a\r\nb: c"), RequestNotSentError),
    "a blank at its end": (minted("a "), RequestNotSentError),
    "not ASCII": (minted("é"), RequestNotSentError),
}


@pytest.mark.parametrize(("answer", "kind"), NO_TOKEN.values(), ids=NO_TOKEN)
async def test_a_token_endpoint_that_gives_no_token_is_named_in_the_error(answer, kind):
    async with app_asking([answer], JOB, retry=NO_REPEATS) as (wix, client):
        with pytest.raises(RequestError) as caught:
            await client.list_sessions_async(QUERY)
    assert type(caught.value) is kind
    assert caught.value.endpoint == TOKEN
    assert wix.endpoints == [TOKEN]


TOKEN_FAILURES = {
    "closed": b"",
    "cut": reply(200, b"{}", content_length="99"),
    "HTML": reply(200, b"<html>"),
    "500": reply(500, EMPTY),
    "504": reply(504, EMPTY),
}


@pytest.mark.parametrize("failure", TOKEN_FAILURES.values(), ids=TOKEN_FAILURES)
async def test_without_a_token_nothing_was_asked_so_nothing_can_have_taken_effect(failure):
    """No possible orphan is reported, and a mark is not unknown: it was never sent."""
    async with app_asking([failure], JOB, retry=NO_REPEATS) as (wix, client):
        with pytest.raises(RequestError) as caught:
            await client.list_sessions_async(QUERY)
        assert wix.endpoints == [TOKEN]
    assert not caught.value.may_have_taken_effect


@pytest.mark.parametrize("failure", TOKEN_FAILURES.values(), ids=TOKEN_FAILURES)
async def test_a_token_endpoint_that_recovers_is_no_reason_to_fail_a_read(failure):
    zone = reply(body={"properties": {"timeZone": "UTC"}})
    failures = [failure] * (1 if b" 504 " not in failure else 0)
    async with app_asking([*failures, minted()], zone) as (_, client):
        assert await client.get_site_timezone() == "UTC"


async def test_where_the_token_endpoint_is_not_there_nothing_was_sent():
    async with RawWix(JOB).running() as removed:
        url = removed.url
    async with RawWix(JOB).running() as wix:
        auth = AppAuth("app", CANARY, "instance", base_url=url)
        async with raw_client(wix.url, auth=auth, retry=NO_REPEATS) as client:
            with pytest.raises(RequestNotSentError):
                await client.list_sessions_async(QUERY)
    assert wix.asked == []


@pytest.mark.parametrize("wait", ["minting", "waiting", "renewing"])
async def test_a_call_that_is_cancelled_does_not_hold_the_others_up(wait):
    """Whichever call is cancelled: the one that mints, one that waits for it, or a re-mint."""
    asked_for_token, may_answer = asyncio.Event(), asyncio.Event()

    async def slowly(_):
        asked_for_token.set()
        await may_answer.wait()
        return minted("late")

    tokens = [minted("first"), slowly, minted("next")] if wait == "renewing" else [slowly, minted()]

    async def api(asked):
        return UNAUTHORIZED if asked.headers["authorization"] == "first" else JOB

    async with app_asking(tokens, api) as (_, client):
        calls = [asyncio.create_task(client.list_sessions_async(QUERY)) for _ in range(4)]
        async with asyncio.timeout(5):
            await asked_for_token.wait()
            await asyncio.sleep(0.02)
            victim = calls.pop(2 if wait == "waiting" else 0)
            victim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await victim
            may_answer.set()
            assert await asyncio.gather(*calls) == ["j"] * 3
            assert await client.list_sessions_async(QUERY) == "j"


@pytest.mark.parametrize("url", ["http://wix.test", "https://me:pw@wix.test", "ftp://wix.test"])
def test_an_app_secret_too_goes_out_encrypted_or_stays_on_this_machine(url):
    with pytest.raises(ValueError, match="base_url"):
        AppAuth("app", CANARY, "instance", base_url=url)


# --- secrets stay secret -----------------------------------------------------------------------


def everything_in(error):
    """All that a log, a result or a debugger could show of an error and of what caused it."""
    seen, todo, texts = set(), [error], []
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen or isinstance(one, type | str | bytes | int | float):
            texts += [str(one)] if isinstance(one, str) else []
            texts += [one.decode("latin-1")] if isinstance(one, bytes) else []
            continue
        seen.add(id(one))
        texts += [repr(one), str(one)]
        if isinstance(one, BaseException):
            todo += [one.__cause__, one.__context__, *one.args]
            texts += traceback.format_exception(one)
        if isinstance(one, dict):
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            todo += one
        elif isinstance(one, httpx.Headers):
            todo.append(one.raw)
        todo.append(getattr(one, "__dict__", None))
        todo += [getattr(one, name, None) for name in getattr(type(one), "__slots__", ())]
    return "\n".join(texts)


def test_the_search_finds_what_is_hidden():
    """What the tests below stand on: a secret deep in a cause's attributes is found."""
    request = httpx.Request("GET", "http://h", headers={"authorization": CANARY})
    outer = RuntimeError("outer")
    outer.__context__ = ValueError("inner")
    outer.__context__.request = [{"request": request}]
    assert CANARY in everything_in(outer)


async def error_of(call):
    """How a call failed; None where the answer is good enough for it."""
    try:
        await call
    except WixError as error:
        return error


@pytest.fixture
def all_logs(caplog):
    """Every record of every logger, however chatty it can be made."""
    names = [
        "",
        "httpx",
        "httpcore",
        "httpcore.http11",
        "httpcore.connection",
        "asyncio",
        "prefect_wix",
    ]
    for name in names:
        caplog.set_level(logging.DEBUG, logger=name)
    yield caplog
    records = caplog.get_records("call")
    shown = "\n".join(f"{one.getMessage()} {one.args!r} {vars(one)!r}" for one in records)
    assert "receive_response_headers" in shown or "connect_tcp" in shown, "nothing was logged"
    assert CANARY not in shown


ECHO = {"message": f"the key {CANARY} is unknown", "details": {}}
KEY_AUTH = ApiKeyAuth(CANARY, "site")
FAILURES = {name: answer for name, (answer, *_) in PERSISTENT.items()}
FAILURES |= {f"200 {name}": reply(200, body) for name, (body, _) in UNREADABLE.items()}
FAILURES |= {
    "bad compression": reply(200, b"nonsense", content_encoding="gzip"),
    "no job id": reply(200, {}),
    "bad status line": b"HTTP/1.1 abc\r\n\r\n",
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("answer", FAILURES.values(), ids=FAILURES)
async def test_no_error_and_no_log_of_any_failure_holds_the_key(answer, call, all_logs):
    async with asking(answer, auth=KEY_AUTH, retry=RetryPolicy(times=1)) as (wix, client):
        error = await error_of(CALLS[call](client))
    for shown in (error, pickle.loads(pickle.dumps(error))):
        assert CANARY not in everything_in(shown)
    assert CANARY.encode() not in cloudpickle.dumps(error)
    assert wix.asked[0].headers["authorization"] == CANARY


@pytest.mark.parametrize(
    "body",
    [
        ECHO,
        {"message": "", "details": {"applicationError": {"code": "X", "description": CANARY}}},
        {
            "details": {
                "validationError": {"fieldViolations": [{"field": "a", "description": CANARY}]}
            }
        },
    ],
)
async def test_a_key_that_wix_repeats_in_its_answer_goes_no_further(body):
    async with asking(reply(401, body), auth=KEY_AUTH) as (_, client):
        with pytest.raises(AuthenticationError) as caught:
            await client.list_sessions_async(QUERY)
    assert CANARY not in everything_in(caught.value)


async def test_no_timeout_or_broken_line_holds_the_key(all_logs):
    async def never(_):
        await asyncio.sleep(30)

    async with RawWix(never).running() as wix:
        url = wix.url
        options = {"auth": KEY_AUTH, "timeout_seconds": 0.05, "retry": NO_REPEATS}
        async with raw_client(url, **options) as client:
            with pytest.raises(ResponseLostError) as lost:
                await client.list_sessions_async(QUERY)
    async with raw_client(url, **options) as client:
        with pytest.raises(RequestNotSentError) as not_sent:
            await client.list_sessions_async(QUERY)
    for caught in (lost, not_sent):
        assert CANARY not in everything_in(caught.value)


APP_FAILURES = {name: [answer] for name, (answer, _) in NO_TOKEN.items()}
APP_FAILURES |= {name: [answer] for name, answer in TOKEN_FAILURES.items()}
APP_FAILURES |= {
    "refused": [reply(401, {"error": "invalid_client", "error_description": CANARY})],
    "a token, then a refusal": [minted(f"{CANARY}-token")],
    "a token with two lines": [minted(f"{CANARY}\r\nb: c")],
    "a token that is not ASCII": [minted(f"{CANARY}é")],
}


@pytest.mark.parametrize("tokens", APP_FAILURES.values(), ids=APP_FAILURES)
async def test_no_error_and_no_log_holds_an_apps_secret_or_its_token(tokens, all_logs):
    async with app_asking(tokens, UNAUTHORIZED, retry=RetryPolicy(times=1)) as (wix, client):
        with pytest.raises(WixError) as caught:
            await client.list_sessions_async(QUERY)
    assert CANARY not in everything_in(caught.value)
    assert CANARY in json.dumps(wix.asked[0].body)


async def test_no_failed_listing_holds_the_key(all_logs):
    """The messages of a listing, and what it logs on its way, with a job that fails twice."""
    answers = [
        reply(body={"jobId": "j"}),
        reply(body={"result": {"jobStatus": "SOMETHING_NEW"}}),
        reply(body={"result": {"jobStatus": "ERROR"}}),
        reply(500, EMPTY),
        reply(body={"jobId": "j"}),
        reply(body={"result": {"jobStatus": "ERROR"}}),
    ]
    async with (
        asking(*answers, auth=KEY_AUTH) as (_, client),
        Listing(client, QUERY) as listing,
    ):
        with pytest.raises(WixError) as caught:
            await listing.read_all()
    assert CANARY not in everything_in(caught.value)
    assert any("orphan" in one.getMessage() for one in all_logs.records)


def show(thing):
    return [repr(thing), str(thing), f"{thing!s:>5}", repr([thing])]


async def test_neither_the_client_nor_its_auth_shows_a_secret():
    key = ApiKeyAuth(CANARY, "site-1")
    app = AppAuth("app-1", CANARY, "instance-1", base_url="https://wix.test")
    assert (repr(key), repr(app)) == (
        "ApiKeyAuth(site_id='site-1')",
        "AppAuth(site_id='instance-1')",
    )
    for auth in (key, app):
        async with WixClient(auth) as client:
            assert CANARY not in "".join(show(client) + show(auth))


async def test_a_client_does_not_go_into_a_pickle():
    """So no task argument, result or cache can carry one away."""
    async with WixClient(ApiKeyAuth(CANARY, "site")) as client:
        for pickler in (pickle, cloudpickle):
            with pytest.raises(TypeError):
                pickler.dumps(client)


BLOCKS = {
    "key": lambda secret=CANARY, **more: WixCredentials(api_key=secret, site_id="site", **more),
    "app": lambda secret=CANARY, **more: WixAppCredentials(
        app_id="app", app_secret=secret, instance_id="instance", **more
    ),
}


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
def test_a_block_shows_its_secret_to_nobody(make):
    block = make()
    shown = [*show(block), block.model_dump_json(), str(block.model_dump()), str(vars(block))]
    assert CANARY not in "".join(shown)


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize(
    "secret", [one for one in UNSENDABLE if CANARY in one and one.strip() != CANARY]
)
def test_a_secret_that_is_refused_is_not_repeated(make, secret):
    with pytest.raises(ValidationError, match="copy it from Wix once more") as caught:
        make(secret)
    assert CANARY not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
@pytest.mark.parametrize(
    "more",
    [
        {"base_url": "http://wix.test"},
        {"base_url": f"https://me:{CANARY}@wix.test"},
        {"base_url": f"https://{CANARY}\n"},
        {"requests_per_minute": 0},
        {"requests_per_minute": CANARY},
    ],
)
def test_a_block_that_is_refused_repeats_nothing(make, more):
    with pytest.raises(ValidationError) as caught:
        make(**more)
    assert CANARY not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    "url", [f"postgres+odd://u:{CANARY}@h/db", f"{CANARY}", f"duckdb://{CANARY}"]
)
def test_a_warehouse_url_that_is_refused_is_not_repeated(url):
    with pytest.raises(ValidationError) as caught:
        SessionsWarehouse(url=url)
    assert CANARY not in str(caught.value) + repr(caught.value)


async def test_a_block_makes_a_client_that_works(sandbox):
    """The whole way once: block, client, sandbox, for a key and for an app."""
    key = WixCredentials(api_key=sandbox.api_key, site_id=sandbox.site_id, base_url=sandbox.url)
    app = WixAppCredentials(
        app_id=sandbox.app_id,
        app_secret=sandbox.app_secret,
        instance_id=sandbox.instance_id,
        base_url=sandbox.url,
    )
    for block in (key, app):
        async with block.get_client() as client:
            assert await client.get_site_timezone() == "Asia/Jerusalem"


async def test_a_fault_of_the_sandbox_that_spoils_the_token_is_survived(sandbox):
    sandbox.faults = [Fault("server_error", on="token", times=2)]
    async with app_client(sandbox) as client:
        assert await client.get_site_timezone() == "Asia/Jerusalem"
    assert sandbox.count("token") == 3

"""Bytes and text from Wix: echoed secrets, control characters, encodings, sizes and odd values."""

from __future__ import annotations

import asyncio
import base64
import gzip
import html
import itertools
import json
import logging
import pickle
import re
import tracemalloc
import zlib
from contextlib import asynccontextmanager, contextmanager, suppress
from types import SimpleNamespace
from urllib.parse import quote, unquote

import httpx
import pytest
from test_auth import TOKEN, UNAUTHORIZED, all_text_of, app_serving, error_of, token
from test_client import CALLS, JOB, QUERY, raw_client, raw_response, serving

from prefect_wix.client import auth as auth_module
from prefect_wix.client.auth import AccountKeyAuth, ApiKeyAuth, AppAuth
from prefect_wix.client.models import JobStatus
from prefect_wix.client.responses import clean
from prefect_wix.client.sites import list_sites
from prefect_wix.errors import (
    AuthenticationError,
    BadRequestError,
    InvalidResponseError,
    RateLimitError,
    RequestNotSentError,
    StatusError,
)
from prefect_wix.jobs.listing import Listing
from tests.options import repeated

MIB = 2**20

# --- echoed secrets: place x encoding x length --------------------------------------------------

SECRETS = {
    "short": "Zq7+Xw/9",
    "odd characters": "Pa&s<w>ord'%41\"\\u0042 x/y",
    "hex": "4F1CD00D-9b9b-4c4c-8a8a-77f0c0ffee77",
    "key": "IST." + base64.urlsafe_b64encode(bytes(range(7, 250, 3)) * 6).decode().rstrip("="),
}


SOME = {name: SECRETS[name] for name in repeated(("odd characters", "key"), soak=SECRETS)}
"""The secrets in headers, successes and token responses, which are masked as in bodies."""


def escaped(secret, form):
    return "".join(form.format(ord(one)) for one in secret)


def of_part(start, end):
    return lambda secret: secret[start:][:end] if len(secret) > 20 else secret


ENCODINGS = {
    "plain": str,
    "upper": str.upper,
    "lower": str.lower,
    "prefix": of_part(0, 12),
    "middle": of_part(5, 9),
    "suffix": of_part(-9, None),
    "percent": lambda secret: quote(secret, safe=""),
    "every character percent": lambda secret: escaped(secret, "%{:02x}"),
    "percent twice": lambda secret: quote(escaped(secret, "%{:02X}"), safe=""),
    "HTML": html.escape,
    "HTML decimal": lambda secret: escaped(secret, "&#{};"),
    "HTML hex": lambda secret: escaped(secret, "&#x{:X};"),
    "JSON escapes": lambda secret: escaped(secret, "\\u{:04x}"),
    "JSON escapes twice": lambda secret: json.dumps(escaped(secret, "\\u{:04X}"))[1:-1],
    "JSON slashes": lambda secret: secret.replace("/", "\\/"),
    "Python escapes": lambda secret: escaped(secret, "\\x{:02x}"),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64 of a header": lambda secret: base64.b64encode(f"u:{secret}".encode()).decode(),
    "base64 of a pair": lambda secret: base64.b64encode(f"u1:{secret}:x".encode()).decode(),
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
    "base64 in percent": lambda secret: quote(base64.b64encode(secret.encode()), safe=""),
    "hex": lambda secret: secret.encode().hex(),
    "hex in upper case": lambda secret: secret.encode().hex().upper(),
    "with NUL": "\0".join,
    "with zero-width characters": "\u200b".join,
    "with colors": "\x1b[1m".join,
}
HEADER_ENCODINGS = {
    name: form for name, form in ENCODINGS.items() if form("ab").isascii() and "with" not in name
}


def application_error(text):
    return {"message": text, "details": {"applicationError": {"code": "X", "description": ""}}}


def violation(**fields):
    fields = {"field": "limit", "description": "no", **fields}
    return {"message": "", "details": {"validationError": {"fieldViolations": [fields]}}}


BODIES = {
    "message": application_error,
    "description": lambda text: {
        "message": "",
        "details": {"applicationError": {"code": "X", "description": text}},
    },
    "code": lambda text: {"message": "kept", "details": {"applicationError": {"code": text}}},
    "violation's field": lambda text: violation(field=text),
    "violation's description": lambda text: violation(description=text),
    "violation's rule": lambda text: violation(ruleName=text, description="kept"),
    "violated rule": lambda text: violation(violatedRule=text, description="kept"),
    "violation's data": lambda text: violation(data={"a": text, text: 1}, description="kept"),
    "nested data": lambda text: violation(data={"a": {"b": [text]}}, description="kept"),
}


def windows_of(secret):
    """Every part of eight characters, in lower case."""
    text = secret.lower()
    return {text[at : at + 8] for at in range(len(text) - 7)}


def decodings_of(text):
    """The text and what a reader can decode from it."""
    for _ in range(3):
        yield text
        yield (decoded := html.unescape(unquote(text)))
        text = re.sub(r"\\(?:u(....)|x(..)|(.))", unescaped, decoded)
    yield text


def unescaped(match):
    number = match[1] or match[2]
    with suppress(ValueError, TypeError):
        return chr(int(number, 16))
    return match[0] if number else match[3]


def assert_hidden(secret, *texts):
    """No part of eight characters is in a text, nor in what an escape in it stands for."""
    parts = windows_of(secret)
    encoded = [secret.encode().hex(), base64.b64encode(secret.encode()).decode().rstrip("=")]
    encoded_parts = set().union(*map(windows_of, encoded))
    for text in texts:
        for decoded in {*decodings_of(text)}:
            found = parts_in(decoded, parts)
            assert not found, f"{found} is in {decoded!r}"
        assert not parts_in(text, encoded_parts), text


def parts_in(text, parts):
    lower = text.lower()
    return [part for part in parts if part in lower]


def texts_of_error(error):
    """All texts of an error and its chain, and of its copy."""
    attributes = [f"{error.request_id} {getattr(error, 'code', '')}"]
    attributes += [f"{one}" for one in getattr(error, "violations", ())]
    return [all_text_of(error), all_text_of(pickle.loads(pickle.dumps(error))), *attributes]


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
async def test_no_place_of_a_body_shows_an_echoed_key(secret, encode):
    """The rest of the text stays."""
    secret = ApiKeyAuth(secret, "site")._api_key
    echo = f"kept the rest of {encode(secret)} kept too"
    responses = [raw_response(400, make(echo)) for make in BODIES.values()]
    async with serving(*responses, auth=ApiKeyAuth(secret, "site")) as (_, client):
        for place in BODIES:
            error = await error_of(client.list_sessions_async(QUERY))
            assert type(error) is BadRequestError, place
            assert_hidden(secret, *texts_of_error(error))
            assert "kept" in str(error), place
            if place in ("message", "description", "violation's description"):
                assert re.search(r": kept the rest of .*\*\*\*.* kept too", str(error)), error


def head(status_line, *lines, body=b"{}"):
    lines = [status_line, *lines, f"content-length: {len(body)}", "connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


HEADERS = {
    "request ID": lambda text: head("HTTP/1.1 500 No", f"x-wix-request-id: r {text}"),
    "content type": lambda text: head("HTTP/1.1 200 OK", f"content-type: a {text}", body=b"<"),
    "reason": lambda text: head(f"HTTP/1.1 403 No {text}"),
    "cookie": lambda text: head("HTTP/1.1 401 No", f"set-cookie: a={text}"),
    "unknown header": lambda text: head("HTTP/1.1 401 No", f"x-echo: {text}"),
    "location": lambda text: head("HTTP/1.1 302 No", f"location: http://h:{text}"),
    "encoding": lambda text: head("HTTP/1.1 200 OK", f"content-encoding: {text}"),
    "length": lambda text: head(f"HTTP/1.1 200 OK\r\ncontent-length: {text}"),
    "retry after": lambda text: head("HTTP/1.1 429 No", f"retry-after: {text}"),
    "status line": lambda text: f"HTTP/1.1 4 {text}\r\n\r\n".encode(),
    "no HTTP": lambda text: f"{text}\r\n\r\n".encode(),
    "bad header": lambda text: f"HTTP/1.1 200 OK\r\n{text}\r\n\r\n".encode(),
    "chunk": lambda text: (
        f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{text}\r\n".encode()
    ),
    "transfer": lambda text: f"HTTP/1.1 200 OK\r\ntransfer-encoding: {text}\r\n\r\n".encode(),
}


@pytest.fixture
def debug_logs(caplog):
    """Every log record at DEBUG, also those of the HTTP libraries."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore.http11", "httpcore.connection", "httpcore.proxy", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    return lambda: "\n".join(
        f"{one.getMessage()} {one.args!r} {vars(one)!r}" for one in caplog.records
    )


@pytest.mark.parametrize("secret", SOME.values(), ids=SOME)
@pytest.mark.parametrize("place", HEADERS)
async def test_no_header_status_line_or_protocol_error_shows_an_echoed_key(
    secret, place, debug_logs
):
    """Neither in the error and its chain nor in a log record at DEBUG."""
    responses = [HEADERS[place](form(secret)) for form in HEADER_ENCODINGS.values()]
    async with serving(*responses, auth=ApiKeyAuth(secret, "site"), retries=0) as (
        _,
        client,
    ):
        for _ in responses:
            error = await error_of(client.list_sessions_async(QUERY))
            assert error is not None
            assert_hidden(secret, *texts_of_error(error))
    logs = debug_logs()
    assert "receive_response_headers" in logs
    assert_hidden(secret, logs)


async def test_a_log_line_of_the_http_library_keeps_method_url_and_status(caplog):
    caplog.set_level(logging.INFO, logger="httpx")
    async with serving(head('HTTP/1.1 403 a "b" c')) as (wix, client):
        await error_of(client.list_sessions_async(QUERY))
    expected = f"HTTP Request: POST {wix.url}/analytics/v1/sessions/list/async HTTP/1.1 403"
    assert caplog.messages == [expected]


async def test_the_log_lines_of_other_http_clients_are_unchanged(caplog):
    caplog.set_level(logging.DEBUG, logger="httpcore.http11")
    async with serving(JOB) as (wix, client):
        await client.list_sessions_async(QUERY)
        async with httpx.AsyncClient() as other:
            await other.get(wix.url)
    complete = [one for one in caplog.messages if one.startswith("receive_response_headers.compl")]
    assert complete[0] == "receive_response_headers.complete"
    assert "x-wix-request-id" in complete[1]


SUCCESSES = {
    "status": lambda text: {"result": {"jobStatus": text}},
    "time zone": lambda text: {"properties": {"timeZone": text}},
    "site name": lambda text: {"sites": [{"id": "a", "name": text}]},
    "job": lambda text: {"jobId": text[:200]},
    "site": lambda text: {"sites": [{"id": text[:200]}]},
    "date": lambda text: {"data": [{"type": "TOTAL_SESSIONS", "values": [{"date": text}]}]},
}
READERS = {
    "status": lambda client: client.get_list_sessions_job_result("job"),
    "time zone": lambda client: client.get_site_timezone(),
    "site name": lambda client: client.query_sites(),
    "job": lambda client: client.list_sessions_async(QUERY),
    "site": lambda client: client.query_sites(),
    "date": CALLS["GET /analytics/v2/site-analytics/data"],
}


@pytest.mark.parametrize("secret", SOME.values(), ids=SOME)
@pytest.mark.parametrize("place", SUCCESSES)
async def test_no_value_of_a_success_shows_an_echoed_key(secret, place):
    bodies = [SUCCESSES[place](f"{form(secret)}") for form in ENCODINGS.values()]
    auth = AccountKeyAuth(secret, "account")
    async with serving(*map(raw_body, bodies), auth=auth, retries=0) as (_, client):
        for name in ENCODINGS:
            try:
                value = await READERS[place](client)
            except InvalidResponseError as error:
                value = all_text_of(error)
            assert_hidden(secret, repr(value), str(value)), name


def raw_body(body):
    return raw_response(body=body)


async def test_an_undocumented_status_is_logged_without_the_key(caplog):
    secret = SECRETS["key"]
    responses = [
        JOB,
        raw_body({"result": {"jobStatus": f"NEW \x1b[31m{secret}\nx"}}),
        raw_body({"result": {"jobStatus": "FINISHED", "total": 0}}),
    ]
    async with (
        serving(*responses, auth=ApiKeyAuth(secret, "site")) as (_, client),
        Listing(client, QUERY) as listing,
    ):
        await listing.read_all()
    assert "undocumented status 'NEW *** x'" in caplog.text
    assert_hidden(secret, caplog.text)


TOKEN_ECHOES = {
    "error": lambda text: raw_response(401, {"error": f"kept {text}"}),
    "description": lambda text: raw_response(400, {"error": "kept", "error_description": text}),
    "message": lambda text: raw_response(404, application_error(f"kept {text}")),
    "request ID": lambda text: raw_response(401, {"error": "kept"}, x_wix_request_id=text),
    "request ID of a 503": lambda text: raw_response(503, {"error": 1}, x_wix_request_id=text),
    "content type": lambda text: raw_response(200, b"<", content_type=text),
    "no token": lambda text: raw_response(200, {}, x_wix_request_id=text),
    "reason": lambda text: head(f"HTTP/1.1 401 {text}"),
    "no HTTP": lambda text: text.encode() + b"\r\n\r\n",
}


@pytest.mark.parametrize("secret", SOME.values(), ids=SOME)
@pytest.mark.parametrize("place", TOKEN_ECHOES)
async def test_no_response_of_the_token_endpoint_shows_an_echoed_app_secret(
    secret, place, debug_logs
):
    responses = [TOKEN_ECHOES[place](form(secret)) for form in HEADER_ENCODINGS.values()]
    async with app_serving(responses, JOB, secret=secret, retries=0) as (_, client):
        for _ in responses:
            error = await error_of(client.list_sessions_async(QUERY))
            assert error.endpoint == TOKEN
            assert_hidden(secret, *texts_of_error(error))
            assert "kept" in str(error) or place not in ("error", "description", "message")
    assert_hidden(secret, debug_logs())


@pytest.mark.parametrize("encode", HEADER_ENCODINGS.values(), ids=HEADER_ENCODINGS)
async def test_no_response_shows_a_new_token(encode, debug_logs):
    """Not the token response, whose headers arrive before the token, and not a later response."""
    secret = "eyJ0b2tlbiI.6c2VjcmV0-token_77"
    invalid = raw_response(
        200, {"access_token": f"{secret}\n"}, x_wix_request_id=encode(secret), set_cookie=secret
    )
    valid = raw_response(200, {"access_token": secret}, x_echo=secret)
    refused = raw_response(401, application_error(f"kept {encode(secret)}"))
    async with app_serving([invalid, valid], refused, retries=0) as (_, client):
        for kind in (RequestNotSentError, AuthenticationError):
            error = await error_of(client.list_sessions_async(QUERY))
            assert type(error) is kind
            assert_hidden(secret, *texts_of_error(error))
    assert re.search(r": kept .*\*\*\*", str(error))
    assert_hidden(secret, debug_logs())


async def test_the_replaced_token_of_a_second_401_is_masked():
    tokens = [token("first-token-1234"), token("second-token-5678")]
    async with app_serving(tokens, UNAUTHORIZED, secret="secret-9999") as (_, client):
        error = await error_of(client.list_sessions_async(QUERY))
    assert type(error) is AuthenticationError
    assert_hidden("second-token-5678", *texts_of_error(error))


@pytest.mark.parametrize("secret", ["ab\ncd\ud800", "é" * 12, "", "\0" * 9])
def test_an_app_secret_that_is_no_header_text_is_refused_and_not_quoted(secret):
    """Encoding it as JSON would raise an error that holds the whole request body."""
    with pytest.raises(ValueError, match="app_secret is empty or not printable ASCII") as caught:
        AppAuth("app", secret, "instance", base_url="http://127.0.0.1")
    assert not secret or secret not in str(caught.value)


async def test_a_text_without_a_secret_is_not_changed():
    text = "50% of 100%25 &amp; a\\b C:\\new <p> {x} 'ist.' q=4f é 日本 \U0001f600"
    async with serving(raw_response(400, application_error(text))) as (_, client):
        error = await error_of(client.list_sessions_async(QUERY))
    assert f": {text}. Correct the request." in str(error)


# --- control characters and length --------------------------------------------------------------

CLEANED = {
    "NUL": ("a\0b", "ab"),
    "line breaks": ("a\r\nb\u2028c\x85d\te", "a b c d e"),
    "surrogate": ("a\ud800b", "ab"),
    "color": ("a\x1b[1;31mb\x1b[0m\x1b[2Kc\x9b31md", "abcd"),
    "title": ("a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c", "abc"),
    "other escape": ("a\x1bMb\x1b7c", "abc"),
    "direction": ("a\u202eb\u2066c\u200fd", "abcd"),
    "zero width": ("a\u200bb\ufeffc\u00add", "abcd"),
    "private use": ("a\ue000b\U000e0041c", "abc"),
    "blanks": ("  a \u00a0  b\u3000c ", "a b c"),
    "number": (5, "5"),
    "list": (["a"], ""),
    "none": (None, ""),
    "long": ("x" * 9_000_000, "x" * 499 + "…"),
    "500": ("x" * 500, "x" * 500),
}


@pytest.mark.parametrize(("text", "expected"), CLEANED.values(), ids=CLEANED)
def test_a_text_is_one_printable_line_of_500_characters(text, expected):
    assert clean(text) == expected


TEXT = "evil\r\n\x1b[31m\u202etext\0\ud800" + "y" * 5000
SAFE = f"evil text{'y' * 490}…"


@pytest.mark.parametrize("place", BODIES)
async def test_every_text_of_an_error_is_clean(place):
    async with serving(raw_response(400, BODIES[place](TEXT))) as (_, client):
        error = await error_of(client.list_sessions_async(QUERY))
    seen = [str(error), error.code or "", *map(str, all_strings_of(error.violations))]
    assert all(one.isprintable() and len(one) < 800 for one in seen)
    assert any(SAFE in one for one in seen) or place == "nested data"


def all_strings_of(violations):
    for one in violations:
        yield from (one.field, one.description, one.rule or "")
        yield from itertools.chain(*(one.data or {}).items())


async def test_the_texts_of_a_success_are_clean():
    """A lone surrogate would make pydantic raise an error with Wix's text."""
    bodies = {
        "status": {"result": {"jobStatus": TEXT}},
        "time zone": {"properties": {"timeZone": TEXT}},
        "site name": {"sites": [{"id": "a", "name": TEXT}]},
    }
    async with serving(*map(raw_body, bodies.values())) as (_, client):
        page, zone, sites = [await READERS[place](client) for place in bodies]
    assert (page.status, page.status_text) == (JobStatus.UNKNOWN, SAFE)
    assert zone == SAFE
    assert sites.sites[0].name == SAFE


async def test_many_violations_make_a_short_message():
    fields = [{"field": f"f{n}", "description": "x" * 100} for n in range(10_000)]
    body = {"message": "", "details": {"validationError": {"fieldViolations": fields}}}
    async with serving(raw_response(400, body)) as (_, client):
        error = await error_of(client.list_sessions_async(QUERY))
    assert len(str(error)) < 800
    assert len(error.violations) == 20


async def test_a_numeric_threshold_stays_a_number():
    body = violation(data={"threshold": 100, "ratio": 0.5, "none": None, "yes": True, "deep": {}})
    async with serving(raw_response(400, body)) as (_, client):
        error = await error_of(client.list_sessions_async(QUERY))
    expected = {"threshold": 100, "ratio": 0.5, "none": None, "yes": True, "deep": ""}
    assert error.violations[0].data == expected


# --- IDs ----------------------------------------------------------------------------------------

INVALID_IDS = ["x" * 201, "x" * 8_000_000, "a\u202eb", "a\ufffdb", "a\u200b", "a\x1b[1m", "", None]


@pytest.mark.parametrize("value", INVALID_IDS)
@pytest.mark.parametrize("place", ["job", "session", "site"])
async def test_an_id_is_printable_text_of_at_most_200_characters(value, place):
    body = {
        "job": {"jobId": value},
        "session": {"result": {"jobStatus": "FINISHED", "sessionIds": ["a", value]}},
        "site": {"sites": [{"id": value}]},
    }[place]
    reader = READERS["status" if place == "session" else place]
    async with serving(raw_body(body), retries=0) as (_, client):
        with pytest.raises(InvalidResponseError, match="ID") as caught:
            await reader(client)
    assert len(str(caught.value)) < 300


async def test_an_id_of_200_characters_is_valid():
    longest = "é" * 200
    page = {"jobId": longest, "result": {"jobStatus": "FINISHED", "sessionIds": [longest]}}
    async with serving(raw_body(page)) as (_, client):
        assert await client.list_sessions_async(QUERY) == longest
        result = await client.get_list_sessions_job_result("job")
    assert result.session_ids == (longest,)


async def test_bytes_that_are_not_utf8_make_an_id_invalid():
    """Two IDs with different invalid bytes would become the same ID."""
    body = b'{"result": {"jobStatus": "FINISHED", "sessionIds": ["a\xff", "a\xfe"]}}'
    async with serving(raw_response(body=body), retries=0) as (_, client):
        with pytest.raises(InvalidResponseError, match="invalid session ID"):
            await client.get_list_sessions_job_result("job")


@pytest.mark.parametrize("cursor", ["\ud800", "a\0b"])
async def test_an_unprintable_cursor_is_an_invalid_response(cursor):
    body = {"sites": [], "metadata": {"hasNext": True, "cursors": {"next": cursor}}}
    async with serving(raw_body(body), retries=0) as (_, client):
        with pytest.raises(InvalidResponseError, match="invalid cursor"):
            await list_sites(client)


# --- character sets -----------------------------------------------------------------------------

CHARSETS = ["hex", "base64", "rot13", "utf-16", "utf-32", "zip", "punycode", "idna", "utf-7", "?"]
CHARSETS += ["undefined", "unicode_escape", "cp037", "a\tb", '"', "x" * 5000]


@pytest.mark.parametrize("charset", CHARSETS)
async def test_the_body_is_decoded_as_utf8_whatever_charset_is_declared(charset):
    kind = f"application/json; charset={charset}"
    job = raw_response(body='{"jobId": "é+AGE-"}'.encode(), content_type=kind)
    refused = raw_response(400, '{"message": "é+AGE-"}'.encode(), content_type=kind)
    failed = raw_response(200, b"<html>", content_type=kind)
    async with serving(job, refused, failed, retries=0) as (_, client):
        assert await client.list_sessions_async(QUERY) == "é+AGE-"
        with pytest.raises(BadRequestError, match=r"é[+]AGE-"):
            await client.list_sessions_async(QUERY)
        with pytest.raises(InvalidResponseError, match="not a JSON object") as caught:
            await client.list_sessions_async(QUERY)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("charset", CHARSETS)
async def test_a_token_response_is_decoded_as_utf8_whatever_charset_is_declared(charset):
    kind = f"application/json; charset={charset}"
    refused = raw_response(401, {"error": "invalid_client"}, content_type=kind)
    async with app_serving([refused], JOB) as (_, client):
        with pytest.raises(AuthenticationError, match="401, invalid_client"):
            await client.list_sessions_async(QUERY)


async def test_a_byte_order_mark_is_removed():
    job, refused = b'\xef\xbb\xbf{"jobId": "j"}', b'\xef\xbb\xbf{"message": "m"}'
    async with serving(raw_response(body=job), raw_response(400, refused)) as (_, client):
        assert await client.list_sessions_async(QUERY) == "j"
        with pytest.raises(BadRequestError, match=r": m\. Correct"):
            await client.list_sessions_async(QUERY)


async def test_utf16_is_not_guessed():
    """Python's JSON parser detects UTF-16 in bytes."""
    body = '{"jobId": "j"}'.encode("utf-16-le")
    async with serving(raw_response(body=body)) as (_, client):
        with pytest.raises(InvalidResponseError, match="not a JSON object"):
            await client.list_sessions_async(QUERY)


async def test_invalid_bytes_in_a_name_are_replaced():
    body = b'{"sites": [{"id": "a", "name": "Caf\xe9"}]}'
    async with serving(raw_response(body=body)) as (_, client):
        page = await client.query_sites()
    assert page.sites[0].name == "Caf\ufffd"


# --- size ---------------------------------------------------------------------------------------


def spaces(mib):
    return b'{"jobId": "j"}' + b" " * (mib * MIB)


BOMBS = {
    "gzip": (lambda: gzip.compress(spaces(100)), "gzip"),
    "gzip of gzip": (lambda: gzip.compress(gzip.compress(spaces(100))), "gzip, gzip"),
    "raw": (lambda: spaces(9), None),
    "data after gzip": (lambda: gzip.compress(b"{}") + bytes(9 * MIB), "gzip"),
    "members": (lambda: gzip.compress(spaces(1)) * 3000 + bytes(9 * MIB), "gzip"),
    "cut gzip": (lambda: gzip.compress(b'{"jobId": "j"}')[:-3], "gzip"),
    "broken gzip": (lambda: b"nonsense", "gzip"),
    "deflate": (lambda: zlib.compress(spaces(100)), "deflate"),
    "zstd": (lambda: b"\x28\xb5\x2f\xfd", "zstd"),
    "br": (lambda: b"\x06", "br"),
}
"""How to make each body, and its encoding."""


@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.parametrize(("make", "encoding"), BOMBS.values(), ids=BOMBS)
async def test_a_large_body_is_refused_while_it_is_read(make, encoding, status):
    encoding = {"content_encoding": encoding} if encoding else {}
    async with serving(raw_response(status, make(), **encoding)) as (_, client):
        with bounded_memory(mib=40):
            error = await error_of(client.list_sessions_async(QUERY))
    assert type(error) is InvalidResponseError
    assert error.may_have_taken_effect
    assert error.request_id == "req-1"
    assert re.search("more than 8 MiB|unsupported content encoding|broken compression", str(error))


@contextmanager
def bounded_memory(*, mib):
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < mib * MIB


@asynccontextmanager
async def endless(lines, chunk):
    """A server that sends a head and then the same chunk without end."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n")
        try:
            while True:
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


ENDLESS = {
    "chunks": (b"transfer-encoding: chunked\r\n", b"1000\r\n" + b" " * 4096 + b"\r\n"),
    "until closed": (b"", b"[" * 4096),
    "empty blocks": (b"content-encoding: gzip\r\n", b"\0\0\0\xff\xff" * 800),
}


@pytest.mark.parametrize(("lines", "chunk"), ENDLESS.values(), ids=ENDLESS)
async def test_an_endless_body_is_refused(lines, chunk):
    async with endless(lines, chunk) as url, raw_client(url) as client:
        with bounded_memory(mib=40):
            error = await error_of(client.list_sessions_async(QUERY))
    assert type(error) is InvalidResponseError


async def test_an_endless_token_response_is_refused():
    async with endless(*ENDLESS["chunks"]) as url:
        auth = AppAuth("app", "secret-1234", "instance", base_url=url)
        async with raw_client(url, auth=auth, retries=0) as client:
            with bounded_memory(mib=40):
                error = await error_of(client.list_sessions_async(QUERY))
    assert type(error) is RequestNotSentError
    assert error.endpoint == TOKEN
    assert "8 MiB" in str(error)


@pytest.mark.parametrize("encoding", [None, "identity", "gzip", "GZip"])
async def test_a_body_of_8_mib_is_read(encoding):
    body = b'{"jobId": "j"}'.ljust(8 * MIB)
    headers = {"content_encoding": encoding} if encoding else {}
    body = gzip.compress(body) if encoding and encoding.lower() == "gzip" else body
    async with serving(raw_response(body=body, **headers)) as (wix, client):
        assert await client.list_sessions_async(QUERY) == "j"
    assert wix.requests[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("body", [b'{"a":' * 100_000, b"[" * 4_000_000, b'{"a":[' * 400])
@pytest.mark.parametrize("status", [200, 400])
async def test_deeply_nested_json_is_an_error_of_the_tree(body, status):
    async with serving(raw_response(status, body), retries=0) as (_, client):
        for call in CALLS.values():
            error = await error_of(call(client))
            assert type(error) is (InvalidResponseError if status == 200 else BadRequestError)


@pytest.mark.parametrize("depth", [100, 300, 900])
async def test_nested_values_in_an_error_are_ignored(depth):
    nested = json.loads("[" * depth + "]" * depth)
    bodies = [make(nested) for make in BODIES.values() if make is not BODIES["violation's data"]]
    async with serving(*(raw_response(400, body) for body in bodies)) as (_, client):
        for _ in bodies:
            error = await error_of(client.list_sessions_async(QUERY))
            assert type(error) is BadRequestError
            pickle.loads(pickle.dumps(error))


# --- odd values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lifetime",
    ["9" * 400, "1e400", "NaN", "Infinity", "-Infinity", "-" + "9" * 400, "-1", "0", "true", "{}"],
)
async def test_an_odd_token_lifetime_is_at_most_the_documented_one(monkeypatch, lifetime):
    at = 1_000.0
    monkeypatch.setattr(auth_module, "time", SimpleNamespace(monotonic=lambda: at))
    response = raw_response(body=b'{"access_token": "token", "expires_in": %s}' % lifetime.encode())
    async with app_serving([response], JOB) as (wix, client):
        await client.list_sessions_async(QUERY)
        at += 13_801
        await client.list_sessions_async(QUERY)
    assert wix.endpoints.count(TOKEN) == 2


async def test_a_token_has_at_most_8192_characters():
    async with app_serving([token("t" * 8193)], JOB, retries=0) as (_, client):
        with pytest.raises(RequestNotSentError, match="no usable token"):
            await client.list_sessions_async(QUERY)


ODD_WAITS = ["nan", "inf", "1e3", "0x10", "+7", "7,8", "7;8", "-" * 90, "1" * 60_000, "a " * 30_000]
ODD_WAITS += [
    "Mon, 99 Foo 2024 99:99:99",
    "Mon",
    ", , ,",
    "1 Jan",
    "Fri, 31 Dec 9999 23:59:59 -2359",
]
ODD_WAITS += ["Mon, 01 Jan 0001 00:00:00 +2359", "0 0 0 0 0 0", "1 1 1 1:1:1 1"]


@pytest.mark.parametrize("header", ODD_WAITS)
async def test_an_odd_retry_after_is_ignored_or_limited(header):
    response = raw_response(429, b"", retry_after=header)
    async with serving(response, retries=0) as (_, client):
        with pytest.raises(RateLimitError) as caught:
            await client.list_sessions_async(QUERY)
    assert caught.value.retry_after is None or 0 <= caught.value.retry_after <= 3600


async def test_a_redirect_to_an_invalid_url_is_a_status_error():
    moved = raw_response(302, b"", location="http://h:port")
    async with serving(moved) as (_, client):
        error = await error_of(client.list_sessions_async(QUERY))
    assert type(error) is StatusError

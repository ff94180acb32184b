"""Masking of the current request's secrets, in Wix's text and in log records of the HTTP libraries.

A server can repeat a key: whole or cut, with escapes or encoded. `prefect_wix.client.auth` sets the
secrets of a request, and `clean` in `prefect_wix.client.responses` masks them.
"""

import html
import logging
import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase

_WINDOW = 8
"""A part of a secret with this many characters is masked."""
_ESCAPE_LEVELS = 4
"""Escapes are decoded this many times, since an escaped text can be escaped again."""
# Ignores the case, and the difference between the two alphabets of base64.
_FOLD = str.maketrans(ascii_uppercase + "-_", ascii_lowercase + "+/")
# An escaped character in a URL, an e-mail, JSON, Python or HTML. Folded.
_ESCAPE = re.compile(
    r"[%=][0-9a-f]{2}|\\u[0-9a-f]{4}|\\x[0-9a-f]{2}|\\."
    r"|&#\d{1,7};|&#x[0-9a-f]{1,6};|&(?:amp|lt|gt|quot|apos);",
    re.DOTALL,
)
_CHARACTER = re.compile(f"{_ESCAPE.pattern}|.", re.DOTALL)
_HEX_NUMBER = re.compile(r"[0-9a-f]{2,4}$")
_MASKED = "\0"
_LOGGERS = ("httpx", *(f"httpcore.{one}" for one in ("connection", "http11", "proxy", "socks")))
_LOGGED = re.compile(r'HTTP Request: \S+ \S+ "\S+ \d+|\S*')

_secrets: ContextVar[tuple[str, ...]] = ContextVar("prefect_wix_secrets", default=())
_sending: ContextVar[bool] = ContextVar("prefect_wix_sending", default=False)


def set_secrets(*secrets: str) -> None:
    """Set the secrets of the request that the current task sends, for `mask`."""
    _secrets.set(secrets)


def mask(text: str) -> str:
    """The text with ``***`` for each part that repeats 8 or more characters of a secret.

    It finds a secret in upper or lower case, with escapes (percent, HTML, JSON, Python), in base64
    and in hex. A secret of fewer than 8 characters is not found.
    """
    windows = _windows(_secrets.get())
    parts, folded = list(text), text.translate(_FOLD)
    for _ in range(_ESCAPE_LEVELS):
        for start in range(len(folded) - _WINDOW + 1):
            if folded[start : start + _WINDOW] in windows:
                parts[start : start + _WINDOW] = [_MASKED] * _WINDOW
        if _ESCAPE.search(folded) is None:
            break
        spans = [one.span() for one in _CHARACTER.finditer(folded)]
        parts = ["".join(parts[start:end]) for start, end in spans]
        folded = "".join(_unescape(folded[start:end]) for start, end in spans).translate(_FOLD)
    return re.sub(f"{_MASKED}+", "***", "".join(parts))


@lru_cache(maxsize=32)
def _windows(secrets: tuple[str, ...]) -> frozenset[str]:
    """Every part of 8 characters of every form of the secrets, folded."""
    forms = [form.translate(_FOLD) for secret in secrets for form in _forms(secret)]
    return frozenset(
        form[start : start + _WINDOW] for form in forms for start in range(len(form) - _WINDOW + 1)
    )


def _forms(secret: str) -> Iterator[str]:
    content = secret.encode(errors="replace")
    yield " ".join(secret.split())
    yield content.hex()
    # Base64 encodes three bytes as four characters, so that it depends on the bytes before.
    for before, mixed in ((0, 0), (1, 2), (2, 3)):
        yield b64encode(bytes(before) + content).decode().rstrip("=")[mixed:]


def _unescape(character: str) -> str:
    if character.startswith("&"):
        return html.unescape(character)[:1] or " "
    number = _HEX_NUMBER.search(character)
    return chr(int(number[0], 16)) if number else character[-1]


@contextmanager
def without_logged_content() -> Iterator[None]:
    """Let httpx and httpcore log only method, URL, status and event names of this task's requests.

    Their other values are bytes from Wix: headers that repeat the key, or that hold a new token.
    """
    token = _sending.set(True)
    try:
        yield
    finally:
        _sending.reset(token)


def _remove_content(record: logging.LogRecord) -> bool:
    if _sending.get() and (kept := _LOGGED.match(record.getMessage())):
        record.msg, record.args = kept[0].replace('"', ""), ()
    return True


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_remove_content)

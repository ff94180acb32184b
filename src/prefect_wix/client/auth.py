"""The ways to prove to Wix who is asking, as httpx auth flows.

An API key goes out raw with the id of the site, or of the account. An app trades its secret for a
token that lives four hours; the token is shared by every call of the client and renewed once,
however many calls find it stale at the same moment.

Source: Wix, "About API keys" and "OAuth: client credentials".
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Generator

import httpx

from prefect_wix.client.responses import error_from_response, parse_response, request_id_of
from prefect_wix.errors import AuthenticationError, InvalidResponseError, RequestNotSentError

__all__ = ["AccountKeyAuth", "ApiKeyAuth", "AppAuth", "SiteAuth", "header_value"]

TOKEN_PATH = "/oauth2/token"  # noqa: S105
TOKEN_ENDPOINT = f"POST {TOKEN_PATH}"
RENEWAL_MARGIN_SECONDS = 600.0
"""Wix's own recipe: renew ten minutes before the token ends."""
DEFAULT_LIFETIME_SECONDS = 14_400.0
"""What Wix documents, for a reply that leaves ``expires_in`` out."""
UNAUTHORIZED = 401


def header_value(text: str, name: str) -> str:
    """The text without white space around it, fit to be sent as a header.

    Raises:
        ValueError: it is empty, or holds what no header may. The message does not repeat it.
    """
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError(
            f"{name} is empty or holds characters that no {name} has; copy it from Wix once more."
        )
    return text


def check_base_url(base_url: str) -> str:
    """The base URL without a slash at its end.

    Raises:
        ValueError: it is not an https URL (http is allowed for this machine), or holds a login.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        raise ValueError("base_url is not a URL.") from None
    if url.userinfo:
        raise ValueError("base_url must not hold a user name or password.")
    encrypted = url.scheme == "https" and url.host
    if not encrypted and not (url.scheme == "http" and _is_this_machine(url.host)):
        raise ValueError(
            f"base_url must be https, or http on this machine, since it is sent the key; "
            f"got {url.scheme or 'no scheme'}://{url.host}."
        )
    return base_url.rstrip("/")


def _is_this_machine(host: str) -> bool:
    return host in ("127.0.0.1", "::1", "localhost")


class SiteAuth(httpx.Auth):
    """What every way to authenticate has: the site (or app instance) it speaks for."""

    site_id: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}(site_id={self.site_id!r})"


class _KeyAuth(SiteAuth):
    """An API key, sent raw, with no scheme, beside the id of what it is asked for."""

    _header: str

    def __init__(self, api_key: str, asked_for: str) -> None:
        self._api_key = api_key
        self.site_id = asked_for

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the key and the id."""
        request.headers["Authorization"] = self._api_key
        request.headers[self._header] = self.site_id
        yield request


class ApiKeyAuth(_KeyAuth):
    """An API key, for one site.

    Args:
        api_key: the key, as Wix showed it once.
        site_id: the id of the site that is asked for.

    Raises:
        ValueError: one of them can't be sent.
    """

    _header = "wix-site-id"

    def __init__(self, api_key: str, site_id: str) -> None:
        super().__init__(header_value(api_key, "api_key"), header_value(site_id, "site_id"))


class AccountKeyAuth(_KeyAuth):
    """An API key, for what is the account's and not one site's; Wix takes no site beside it.

    The account's id stands where a site's would: the account has a request budget of its own.

    Args:
        api_key: the key, as Wix showed it once.
        account_id: the id of the account that is asked for.

    Raises:
        ValueError: one of them can't be sent.
    """

    _header = "wix-account-id"

    def __init__(self, api_key: str, account_id: str) -> None:
        super().__init__(header_value(api_key, "api_key"), header_value(account_id, "account_id"))


class AppAuth(SiteAuth):
    """App credentials, for the site that one instance of the app is installed on.

    Args:
        app_id: the app's id.
        app_secret: the app's secret.
        instance_id: the app instance, which stands for the site.
        base_url: where the token is minted.
    """

    def __init__(self, app_id: str, app_secret: str, instance_id: str, *, base_url: str) -> None:
        self._claim = {
            "grant_type": "client_credentials",
            "client_id": app_id,
            "client_secret": app_secret,
            "instance_id": instance_id,
        }
        self._token_url = check_base_url(base_url) + TOKEN_PATH
        self.site_id = instance_id
        self._token: str | None = None
        self._renew_at = 0.0
        self._renewal = asyncio.Lock()

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send a fresh token raw; on a 401 drop it, mint once and try once more."""
        async with self._renewal:
            if self._token is None or time.monotonic() >= self._renew_at:
                await self._store((yield self._token_request()))
        used = self._token
        response = yield self._signed(request)
        if response.status_code != UNAUTHORIZED:
            return
        async with self._renewal:
            if self._token == used:
                await self._store((yield self._token_request()))
        yield self._signed(request)

    def _signed(self, request: httpx.Request) -> httpx.Request:
        request.headers["Authorization"] = self._token or ""
        return request

    def _token_request(self) -> httpx.Request:
        return httpx.Request("POST", self._token_url, json=self._claim)

    async def _store(self, response: httpx.Response) -> None:
        await response.aread()
        token, lifetime = _read_token(response)
        self._token = token
        self._renew_at = time.monotonic() + max(lifetime - RENEWAL_MARGIN_SECONDS, lifetime / 2)


def _read_token(response: httpx.Response) -> tuple[str, float]:
    if response.status_code in (400, UNAUTHORIZED, 403):
        raise _refused(response)
    if not response.is_success and not response.is_server_error:
        raise error_from_response(response, TOKEN_ENDPOINT, quoting=False)
    if response.is_server_error:
        raise token_error(f"the token request was answered {response.status_code}", response)
    try:
        body = parse_response(response, TOKEN_ENDPOINT).body
    except InvalidResponseError as error:
        raise token_error("the token request was answered with no JSON", response) from error
    token, lifetime = body.get("access_token"), body.get("expires_in")
    if not isinstance(token, str) or not re.fullmatch("[!-~]+", token):
        raise token_error("the token request was answered without a token", response)
    known = isinstance(lifetime, int | float) and lifetime > 0
    return token, float(lifetime) if known else DEFAULT_LIFETIME_SECONDS  # type: ignore[arg-type]


def token_error(what: str, response: httpx.Response | None = None) -> RequestNotSentError:
    """The error that says a call was not made, since there was no token to make it with."""
    return RequestNotSentError(
        f"Nothing was asked, since {what}. Try again later.",
        endpoint=TOKEN_ENDPOINT,
        request_id=request_id_of(response) if response is not None else None,
    )


def _refused(response: httpx.Response) -> AuthenticationError:
    return AuthenticationError(
        f"Wix minted no token for the app ({response.status_code}{_oauth_reason(response)}). "
        "Check the app id, the app secret and that the app is installed on the instance.",
        endpoint=TOKEN_ENDPOINT,
        status=response.status_code,
        request_id=request_id_of(response),
    )


def _oauth_reason(response: httpx.Response) -> str:
    # Only the short error code: a free-text description could repeat what was sent.
    try:
        reason = response.json().get("error")
    except (ValueError, AttributeError, RecursionError):
        return ""
    return f", {reason}" if isinstance(reason, str) else ""

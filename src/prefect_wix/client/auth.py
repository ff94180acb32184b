"""Authentication of requests to Wix, as httpx auth flows.

An API key is sent raw, with the ID of the site or account. An app exchanges its secret for a token
that is valid for four hours. All requests of a client share the token, and requests that find it
expired at the same time renew it once. Credentials blocks are in `prefect_wix.blocks`.

Source: Wix, "About API keys" and "OAuth: client credentials".
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import suppress
from typing import Any

import httpx

from prefect_wix.client import responses
from prefect_wix.client.masking import set_secrets
from prefect_wix.errors import AuthenticationError, InvalidResponseError, RequestNotSentError

TOKEN_PATH = "/oauth2/token"  # noqa: S105
TOKEN_ENDPOINT = f"POST {TOKEN_PATH}"
RENEWAL_MARGIN_SECONDS = 600.0
"""Wix recommends to renew a token ten minutes before it expires."""
LIFETIME_SECONDS = 14_400.0
"""The documented lifetime, for a response without a usable ``expires_in``; also the longest."""
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
TOKEN_LIMIT = 8192
"""The longest token, in characters."""


def header_value(text: str, name: str) -> str:
    """The text without surrounding white space, checked as an HTTP header value.

    Args:
        text: the value; it is not part of any error message.
        name: the field's name, for the error message.

    Raises:
        ValueError: the text is empty or has characters that are not printable ASCII.
    """
    text = text.strip()
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError(f"{name} is empty or not printable ASCII text. Copy it from Wix again.")
    return text


def check_base_url(base_url: str) -> str:
    """The base URL without a trailing slash.

    Raises:
        ValueError: not an https URL (http is allowed for loopback hosts), or it has user info.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        raise ValueError("base_url is not a URL.") from None
    if url.userinfo:
        raise ValueError("base_url must not contain a user name or password.")
    encrypted = url.scheme == "https" and url.host
    if not encrypted and not (url.scheme == "http" and url.host in LOOPBACK_HOSTS):
        raise ValueError(
            f"base_url must be https, or http on this machine, because requests carry the key; "
            f"got {url.scheme or 'no scheme'}://{url.host}."
        )
    return base_url.rstrip("/")


class SiteAuth(httpx.Auth):
    """The base class of the auth flows: the site, app instance or account of the requests."""

    site_id: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}(site_id={self.site_id!r})"


class ApiKeyAuth(SiteAuth):
    """An API key for the requests of one site.

    Args:
        api_key: the key; Wix shows it only once.
        site_id: the site's ID.

    Raises:
        ValueError: one of them is not a valid header value.
    """

    _header = "wix-site-id"

    def __init__(self, api_key: str, site_id: str) -> None:
        self._api_key = header_value(api_key, "api_key")
        self.site_id = header_value(site_id, "site_id")

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the key, without an authorization scheme, and the ID to the request."""
        set_secrets(self._api_key)
        request.headers["Authorization"] = self._api_key
        request.headers[self._header] = self.site_id
        yield request


class AccountKeyAuth(ApiKeyAuth):
    """An API key for the requests of an account. Wix rejects a site ID beside the account ID.

    ``site_id`` holds the account's ID, so that the account has its own rate limit.

    Args:
        api_key: the key; Wix shows it only once.
        account_id: the account's ID.

    Raises:
        ValueError: one of them is not a valid header value.
    """

    _header = "wix-account-id"

    def __init__(self, api_key: str, account_id: str) -> None:
        super().__init__(api_key, header_value(account_id, "account_id"))


class AppAuth(SiteAuth):
    """App credentials for the site on which an instance of the app is installed.

    Args:
        app_id: the app's ID.
        app_secret: the app's secret.
        instance_id: the ID of the app instance, which identifies the site.
        base_url: the host of the token endpoint.

    Raises:
        ValueError: the base URL is not https or has user info, or the secret is not printable
            ASCII text.
    """

    def __init__(self, app_id: str, app_secret: str, instance_id: str, *, base_url: str) -> None:
        self._secret = header_value(app_secret, "app_secret")
        self._token_body = {
            "grant_type": "client_credentials",
            "client_id": app_id,
            "client_secret": self._secret,
            "instance_id": instance_id,
        }
        self._token_url = check_base_url(base_url) + TOKEN_PATH
        self.site_id = instance_id
        self._token: str | None = None
        self._renew_at = 0.0
        self._renewal_lock = asyncio.Lock()

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send the token without a scheme; after a 401 renew it once and send the request again."""
        async with self._renewal_lock:
            if self._token is None or time.monotonic() >= self._renew_at:
                await self._store((yield self._token_request()))
        used = self._token
        response = yield self._authorize(request)
        if response.status_code != httpx.codes.UNAUTHORIZED:
            return
        async with self._renewal_lock:
            if self._token == used:
                await self._store((yield self._token_request()))
        yield self._authorize(request)

    def _authorize(self, request: httpx.Request) -> httpx.Request:
        token = self._token or ""
        set_secrets(self._secret, token)
        request.headers["Authorization"] = token
        return request

    def _token_request(self) -> httpx.Request:
        set_secrets(self._secret)
        return httpx.Request("POST", self._token_url, json=self._token_body)

    async def _store(self, response: httpx.Response) -> None:
        await response.aread()
        body = _token_body(response)
        token, lifetime = body.get("access_token"), body.get("expires_in")
        set_secrets(self._secret, str(token)[:TOKEN_LIMIT])
        if not isinstance(token, str) or not re.fullmatch(f"[!-~]{{1,{TOKEN_LIMIT}}}", token):
            raise token_error("the token response has no usable token", response)
        self._token = token
        self._renew_at = time.monotonic() + _seconds_to_renewal(lifetime)


def _token_body(response: httpx.Response) -> Mapping[str, Any]:
    if response.status_code in (400, httpx.codes.UNAUTHORIZED, 403):
        error = responses.oauth_error_of(response)
        reason = ", ".join(filter(None, [str(response.status_code), error]))
        raise AuthenticationError(
            f"Wix issued no token for the app ({reason}). "
            "Check the app ID, the app secret and that the app is installed on the instance.",
            endpoint=TOKEN_ENDPOINT,
            status=response.status_code,
            request_id=responses.request_id_of(response),
        )
    if response.is_server_error:
        raise token_error(f"the token endpoint returned {response.status_code}", response)
    if not response.is_success:
        raise responses.error_from_response(response, TOKEN_ENDPOINT)
    with suppress(InvalidResponseError):
        return responses.parse_response(response, TOKEN_ENDPOINT).body
    raise token_error("the token response is not JSON", response)


def _seconds_to_renewal(lifetime: object) -> float:
    seconds = LIFETIME_SECONDS
    if isinstance(lifetime, int | float) and lifetime > 0:
        # The minimum first: an integer of 400 digits is not a valid float.
        seconds = float(min(lifetime, LIFETIME_SECONDS))
    return max(seconds - RENEWAL_MARGIN_SECONDS, seconds / 2)


def token_error(what: str, response: httpx.Response | None = None) -> RequestNotSentError:
    """The error for a request that was not sent because no token could be fetched."""
    return RequestNotSentError(
        f"The request was not sent: {what}. Try again later.",
        endpoint=TOKEN_ENDPOINT,
        request_id=responses.request_id_of(response) if response is not None else None,
    )

"""Authentication and rate limits: the API key, access tokens, and the request times of each site.

`service` defines what an authorized request returns.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect_wix.sandbox.responses import forbidden, oauth_error, too_many_requests, unauthenticated

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from prefect_wix.sandbox.requests import ApiRequest
    from prefect_wix.sandbox.rules import Rules

RATE_LIMIT_SECONDS = 60.0
"""The length of the rate limit's sliding window."""


def guid(random: Random) -> str:
    """Return a random GUID."""
    return str(UUID(bytes=random.randbytes(16), version=4))


@dataclass(frozen=True, slots=True)
class Credentials:
    """The IDs and secrets of the test account."""

    api_key: str
    account_id: str
    site_id: str
    app_id: str
    app_secret: str
    instance_id: str

    @classmethod
    def from_seed(cls, seed: int) -> Credentials:
        """Return the credentials of a seed, so that a restart does not change them."""
        random = Random(f"identity {seed}")  # noqa: S311
        guids = [guid(random) for _ in range(5)]
        return cls(f"IST.sandbox-{random.randbytes(24).hex()}", *guids)


class AccessControl:
    """Authenticates requests, limits their rate and issues access tokens."""

    def __init__(
        self,
        credentials: Credentials,
        site_ids: Collection[str],
        now: Callable[[], datetime],
        requests_per_minute: int | None,
        rules: Rules,
    ) -> None:
        self.credentials, self.site_ids, self.now = credentials, site_ids, now
        self.rules = rules
        self.requests_per_minute = requests_per_minute
        self.tokens: dict[str, datetime] = {}
        """The expiry of each issued token on the server's clock."""
        self.tokens_minted = 0
        self._request_times: defaultdict[str, deque[float]] = defaultdict(deque)

    def authorize_site(self, request: ApiRequest) -> str:
        """Return the site ID of a site-level request, and count it against the rate limit.

        A missing, invalid or expired credential is a 401, another missing or unexpected header a
        403. Wix accepts a token with and without the scheme Bearer.
        """
        key = self._authorization(request)
        if (token := key.removeprefix("Bearer ")) in self.tokens:
            site_id = self._site_of_token(token, request)
        elif key == self.credentials.api_key:
            site_id = self._site_of_header(request)
        else:
            raise unauthenticated()
        self._check_rate_limit(site_id)
        return site_id

    def authorize_account(self, request: ApiRequest) -> None:
        """Check an account-level request: the API key and wix-account-id, without a site."""
        if self._authorization(request) != self.credentials.api_key:
            raise unauthenticated()
        valid = request.headers.get("wix-account-id") == self.credentials.account_id
        if not valid or "wix-site-id" in request.headers:
            raise forbidden()

    def issue_token(self, body: Mapping[str, Any], seconds: int, random: Random) -> str:
        """Return a new access token of the app instance with a lifetime in seconds."""
        self._authenticate_app(body)
        self.tokens_minted += 1
        token = f"OauthNG.JWS.{random.randbytes(32).hex()}"
        self.tokens[token] = self.now() + timedelta(seconds=seconds)
        return token

    def _authorization(self, request: ApiRequest) -> str:
        if credential := request.headers.get("authorization"):
            return credential
        raise forbidden() if self.rules.missing_authorization_is_forbidden else unauthenticated()

    def _authenticate_app(self, body: Mapping[str, Any]) -> None:
        app = self.credentials
        if body.get("grant_type") != "client_credentials":
            text = "grant_type must be client_credentials"
            raise oauth_error(400, "unsupported_grant_type", text)
        for name in ("client_id", "client_secret", "instance_id"):
            if not body.get(name):
                raise oauth_error(400, "invalid_request", f"{name} is missing")
        if (body["client_id"], body["client_secret"]) != (app.app_id, app.app_secret):
            raise oauth_error(401, "invalid_client", "The app ID or its secret is wrong")
        if body["instance_id"] != app.instance_id:
            raise oauth_error(400, "invalid_grant", "The app has no such instance")

    def _site_of_token(self, token: str, request: ApiRequest) -> str:
        if self.now() >= self.tokens[token]:
            raise unauthenticated()
        if "wix-account-id" in request.headers:
            raise forbidden()
        return self.credentials.site_id

    def _site_of_header(self, request: ApiRequest) -> str:
        site_id = request.headers.get("wix-site-id")
        if site_id not in self.site_ids or "wix-account-id" in request.headers:
            raise forbidden()
        return str(site_id)

    def _check_rate_limit(self, site_id: str) -> None:
        times, now = self._request_times[site_id], time.monotonic()
        while times and times[0] <= now - RATE_LIMIT_SECONDS:
            times.popleft()
        if self.requests_per_minute is not None and len(times) >= self.requests_per_minute:
            raise too_many_requests()
        times.append(now)

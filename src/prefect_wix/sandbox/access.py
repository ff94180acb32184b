"""Who may ask, for which site, and how often: credentials, minted tokens and request budgets.

What the answer is belongs to `service`.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect_wix.sandbox.replies import forbidden, oauth_error, too_many_requests, unauthenticated

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from prefect_wix.sandbox.requests import Call

BUDGET_SECONDS = 60.0
"""The sliding window of the request budget."""


def guid(random: Random) -> str:
    """A random GUID."""
    return str(UUID(bytes=random.randbytes(16), version=4))


@dataclass(frozen=True, slots=True)
class Identity:
    """The names and secrets of the test account."""

    api_key: str
    account_id: str
    site_id: str
    app_id: str
    app_secret: str
    instance_id: str

    @classmethod
    def of(cls, seed: int) -> Identity:
        """The same identity for the same seed, so that a restart does not change it."""
        random = Random(f"identity {seed}")  # noqa: S311
        account, site, app, secret, instance = (guid(random) for _ in range(5))
        return cls(
            f"IST.sandbox-{random.randbytes(24).hex()}", account, site, app, secret, instance
        )


class Access:
    """The door: an API key or a token in, the site it may ask for out."""

    def __init__(
        self,
        identity: Identity,
        site_ids: Collection[str],
        now: Callable[[], datetime],
        requests_per_minute: int | None,
    ) -> None:
        self.identity, self.site_ids, self.now = identity, site_ids, now
        self.requests_per_minute = requests_per_minute
        self.tokens: dict[str, datetime] = {}
        """Each minted token, and when it ends on the server's clock."""
        self.minted = 0
        self._asked: defaultdict[str, deque[float]] = defaultdict(deque)

    def site(self, call: Call) -> str:
        """The site that a site-level call is about, within its budget.

        A missing or forbidden header is a 403, a credential that is wrong or too old a 401.
        """
        key = _credential(call)
        if key in self.tokens:
            site_id = self._installed_site(key, call)
        elif key == self.identity.api_key:
            site_id = self._named_site(call)
        else:
            raise unauthenticated()
        self._spend(site_id)
        return site_id

    def check_account(self, call: Call) -> None:
        """Let an account-level call pass: the API key with wix-account-id, and no site."""
        if _credential(call) != self.identity.api_key:
            raise unauthenticated()
        right = call.headers.get("wix-account-id") == self.identity.account_id
        if not right or "wix-site-id" in call.headers:
            raise forbidden()

    def mint(self, request: Mapping[str, Any], seconds: int, random: Random) -> str:
        """A new token for the app's instance, accepted for so many seconds."""
        self._check_app(request)
        self.minted += 1
        token = f"OauthNG.JWS.{random.randbytes(32).hex()}"
        self.tokens[token] = self.now() + timedelta(seconds=seconds)
        return token

    def _check_app(self, request: Mapping[str, Any]) -> None:
        app = self.identity
        if request.get("grant_type") != "client_credentials":
            text = "grant_type must be client_credentials"
            raise oauth_error(400, "unsupported_grant_type", text)
        for name in ("client_id", "client_secret", "instance_id"):
            if not request.get(name):
                raise oauth_error(400, "invalid_request", f"{name} is missing")
        if (request["client_id"], request["client_secret"]) != (app.app_id, app.app_secret):
            raise oauth_error(401, "invalid_client", "The app id or its secret is wrong")
        if request["instance_id"] != app.instance_id:
            raise oauth_error(400, "invalid_grant", "The app is not installed as this instance")

    def _installed_site(self, token: str, call: Call) -> str:
        if self.now() >= self.tokens[token]:
            raise unauthenticated()
        if "wix-site-id" in call.headers or "wix-account-id" in call.headers:
            raise forbidden()
        return self.identity.site_id

    def _named_site(self, call: Call) -> str:
        site_id = call.headers.get("wix-site-id")
        if site_id not in self.site_ids or "wix-account-id" in call.headers:
            raise forbidden()
        return str(site_id)

    def _spend(self, site_id: str) -> None:
        asked, now = self._asked[site_id], time.monotonic()
        while asked and asked[0] <= now - BUDGET_SECONDS:
            asked.popleft()
        if self.requests_per_minute is not None and len(asked) >= self.requests_per_minute:
            raise too_many_requests()
        asked.append(now)


def _credential(call: Call) -> str:
    if credential := call.headers.get("authorization"):
        return credential
    raise forbidden()

"""The credentials blocks: API keys of a site, an account or an app, and the clients made from them.

The Prefect server stores the secrets encrypted; a flow parameter holds a reference to the block,
never the key. The warehouse block is in `prefect_wix.blocks.warehouse`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

from prefect.blocks.abstract import CredentialsBlock
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger
from pydantic import AfterValidator, ConfigDict, Field, HttpUrl, SecretStr, ValidationInfo

from prefect_wix.blocks.shared_limit import shared_limit
from prefect_wix.client.auth import (
    AccountKeyAuth,
    ApiKeyAuth,
    AppAuth,
    SiteAuth,
    check_base_url,
    header_value,
)
from prefect_wix.client.client import BASE_URL, Log, WixClient
from prefect_wix.client.models import SiteId
from prefect_wix.client.rate_limiter import REQUESTS_PER_MINUTE, GlobalLimiter

LOGO_URL = HttpUrl("https://raw.githubusercontent.com/prefect-wix/prefect-wix/main/docs/logo.png")
_KEYS_URL = HttpUrl("https://dev.wix.com/docs/rest/articles/getting-started/api-keys")
_APPS_URL = HttpUrl("https://dev.wix.com/docs/rest/app-management/oauth-2/introduction")

# An invalid value may be a key that contains a line break.
_NO_INPUT_IN_ERRORS = ConfigDict(hide_input_in_errors=True)

_BASE_URL_FIELD = Field(
    default=BASE_URL,
    title="Base URL",
    description="The URL of the Wix API. Change it only to use a sandbox.",
)
_RATE_LIMIT_FIELD = Field(
    default=REQUESTS_PER_MINUTE,
    ge=1,
    title="Requests a minute",
    description="The number of requests per minute that Wix allows for the site.",
)


def _check_header_text(text: str, field: ValidationInfo) -> str:
    return header_value(text, field.field_name or "value")


def _check_header_secret(secret: SecretStr, field: ValidationInfo) -> SecretStr:
    return SecretStr(_check_header_text(secret.get_secret_value(), field))


_HeaderText = Annotated[str, AfterValidator(_check_header_text)]
_HeaderSecret = Annotated[SecretStr, AfterValidator(_check_header_secret)]
_BaseUrl = Annotated[str, AfterValidator(check_base_url)]


def _make_client(auth: SiteAuth, base_url: str, requests_per_minute: int) -> WixClient:
    """A client with the logger of the current run and the site's limit on the Prefect server.

    Outside of a run: the package's logger, and no limit, since there may be no server.
    """
    log: Log = get_logger("prefect_wix")
    limiter: GlobalLimiter | None = None
    with suppress(MissingContextError):
        log = get_run_logger()
        # No shared limit for an account: listing its sites takes only a few requests.
        limiter = None if isinstance(auth, AccountKeyAuth) else shared_limit(auth.site_id, log)
    return WixClient(
        auth,
        base_url=base_url,
        requests_per_minute=requests_per_minute,
        global_limiter=limiter,
        log=log,
    )


class WixCredentials(CredentialsBlock):
    """A Wix API key, for one site.

    Examples:
        List the sessions of the last 7 days, in a script, a coroutine or a notebook:
        ```python
        from prefect import flow
        from prefect.utilities.asyncutils import run_coro_as_sync
        from prefect_wix import WixCredentials
        from prefect_wix.flows.list_sessions import list_sessions

        @flow
        def count_sessions():
            credentials = WixCredentials.load("BLOCK_NAME")
            listing = run_coro_as_sync(list_sessions(credentials))
            print(listing.summary.sessions)

        count_sessions()
        ```
    """

    model_config = _NO_INPUT_IN_ERRORS

    _block_type_name = "Wix Credentials"
    _block_type_slug = "wix-credentials"
    _logo_url = LOGO_URL
    _documentation_url = _KEYS_URL

    api_key: _HeaderSecret = Field(
        title="API key",
        description="The key from the Wix API Keys Manager, with the permission "
        "to manage session recording analytics.",
    )
    site_id: SiteId = Field(
        title="Site ID",
        description="The site ID: the part of the dashboard's URL after /dashboard/.",
    )
    base_url: _BaseUrl = _BASE_URL_FIELD
    requests_per_minute: int = _RATE_LIMIT_FIELD

    def get_client(self) -> WixClient:
        """A new client for the site. Use it as ``async with``, one client for many requests."""
        auth = ApiKeyAuth(self.api_key.get_secret_value(), self.site_id)
        return _make_client(auth, self.base_url, self.requests_per_minute)


class WixAccountCredentials(CredentialsBlock):
    """A Wix API key of an account, for all of its sites.

    Examples:
        List the account's sites, in a script, a coroutine or a notebook:
        ```python
        from prefect import flow
        from prefect.utilities.asyncutils import run_coro_as_sync
        from prefect_wix import WixAccountCredentials
        from prefect_wix.tasks.sites import list_account_sites

        @flow
        def show_sites():
            account = WixAccountCredentials.load("BLOCK_NAME")
            for site in run_coro_as_sync(list_account_sites(account)):
                print(site)

        show_sites()
        ```
    """

    model_config = _NO_INPUT_IN_ERRORS

    _block_type_name = "Wix Account Credentials"
    _block_type_slug = "wix-account-credentials"
    _logo_url = LOGO_URL
    _documentation_url = _KEYS_URL

    api_key: _HeaderSecret = Field(
        title="API key",
        description="The key from the Wix API Keys Manager, for all sites, with the permissions "
        "to manage session recording analytics and to list the account's sites.",
    )
    account_id: _HeaderText = Field(
        title="Account ID",
        description="The account ID, from the API Keys Manager.",
    )
    base_url: _BaseUrl = _BASE_URL_FIELD
    requests_per_minute: int = _RATE_LIMIT_FIELD

    def for_site(self, site_id: str) -> WixCredentials:
        """Credentials for one of the account's sites, with the same key.

        Raises:
            ValidationError: ``site_id`` is not a valid site ID.
        """
        return WixCredentials(
            api_key=self.api_key,
            site_id=site_id,
            base_url=self.base_url,
            requests_per_minute=self.requests_per_minute,
        )

    def get_client(self) -> WixClient:
        """A new client for the account, to list its sites. Use it as ``async with``."""
        auth = AccountKeyAuth(self.api_key.get_secret_value(), self.account_id)
        return _make_client(auth, self.base_url, self.requests_per_minute)


class WixAppCredentials(CredentialsBlock):
    """The credentials of a Wix app, for the site on which one of its instances is installed.

    Examples:
        List the sessions of the last 7 days, in a script, a coroutine or a notebook:
        ```python
        from prefect import flow
        from prefect.utilities.asyncutils import run_coro_as_sync
        from prefect_wix import WixAppCredentials
        from prefect_wix.flows.list_sessions import list_sessions

        @flow
        def count_sessions():
            credentials = WixAppCredentials.load("BLOCK_NAME")
            listing = run_coro_as_sync(list_sessions(credentials))
            print(listing.summary.sessions)

        count_sessions()
        ```
    """

    model_config = _NO_INPUT_IN_ERRORS

    _block_type_name = "Wix App Credentials"
    _block_type_slug = "wix-app-credentials"
    _logo_url = LOGO_URL
    _documentation_url = _APPS_URL

    app_id: _HeaderText = Field(
        title="App ID", description="The app ID, from the app's OAuth page."
    )
    app_secret: _HeaderSecret = Field(
        title="App secret", description="The app's secret key, from its OAuth page."
    )
    instance_id: SiteId = Field(
        title="Instance ID",
        description="The ID of the app's instance on the site; it is used as the site ID.",
    )
    base_url: _BaseUrl = _BASE_URL_FIELD
    requests_per_minute: int = _RATE_LIMIT_FIELD

    @property
    def site_id(self) -> str:
        """The instance ID, which is used as the site ID of partitions."""
        return self.instance_id

    def get_client(self) -> WixClient:
        """A new client for the site. Use it as ``async with``, one client for many requests."""
        secret = self.app_secret.get_secret_value()
        auth = AppAuth(self.app_id, secret, self.instance_id, base_url=self.base_url)
        return _make_client(auth, self.base_url, self.requests_per_minute)


AnyWixCredentials = WixCredentials | WixAppCredentials

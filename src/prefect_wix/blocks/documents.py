"""The block documents and rate limits that the deployments need, saved from settings.

`prefect-wix setup` calls `save_documents`. The deployments refer to the documents by their slugs;
`find_block` finds what they use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from pydantic import ValidationError

from prefect_wix.blocks.credentials import WixAccountCredentials, WixAppCredentials, WixCredentials
from prefect_wix.blocks.shared_limit import save_limit
from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.errors import DeploymentError

Settings = Mapping[str, str]
"""The variables of the environment and of a ``.env`` file."""


@dataclass(frozen=True)
class Document:
    """A block document and the environment variables of its fields."""

    block_type: type[Block]
    name: str
    variables: Mapping[str, str]
    """Field -> variable; those of the fields without a default must be set."""

    @property
    def slug(self) -> str:
        """The slug by which deployments refer to the document."""
        return f"{self.block_type.get_block_type_slug()}/{self.name}"

    def missing_variables(self, settings: Settings) -> list[str]:
        """The variables without a value, of the fields that need one."""
        required = [name for name, one in self.block_type.model_fields.items() if one.is_required()]
        return [self.variables[name] for name in required if not settings.get(self.variables[name])]

    def make_block(self, settings: Settings) -> Block:
        """The block with the values of the variables.

        Raises:
            ValueError: a value is invalid; the message quotes no value.
        """
        values = {field: settings.get(name) for field, name in self.variables.items()}
        try:
            return self.block_type(**{field: text for field, text in values.items() if text})
        except ValidationError as error:
            reasons = (one["msg"].removeprefix("Value error, ") for one in error.errors())
            raise ValueError(f"{self.slug}: {'; '.join(reasons)}") from None

    async def load_block(self) -> Block | None:
        """The block that is saved on the Prefect server; None without one of this version."""
        try:
            return await self.block_type.aload(self.name)
        except (ValueError, RuntimeError):
            return None


DOCUMENTS = (
    Document(
        WixCredentials,
        "wix",
        {"api_key": "WIX_API_KEY", "site_id": "WIX_SITE_ID", "base_url": "WIX_BASE_URL"},
    ),
    Document(
        WixAppCredentials,
        "wix-app",
        {
            "app_id": "WIX_APP_ID",
            "app_secret": "WIX_APP_SECRET",
            "instance_id": "WIX_INSTANCE_ID",
            "base_url": "WIX_BASE_URL",
        },
    ),
    Document(
        WixAccountCredentials,
        "wix-account",
        {
            "api_key": "WIX_ACCOUNT_API_KEY",
            "account_id": "WIX_ACCOUNT_ID",
            "base_url": "WIX_BASE_URL",
        },
    ),
    Document(
        SessionsWarehouse,
        "sessions",
        {"url": "WIX_WAREHOUSE_URL", "schema_": "WIX_WAREHOUSE_SCHEMA"},
    ),
)


def read_settings(folder: Path) -> Settings:
    """The environment variables, and the values of a ``.env`` file in the folder below them.

    The file is read literally: ``$`` in a key or a password stays as it is. Empty values count as
    not set.
    """
    from_file = dotenv_values(folder / ".env", interpolate=False)
    return {name: value for name, value in [*from_file.items(), *os.environ.items()] if value}


async def find_server() -> str:
    """The URL of the Prefect server, which responds.

    Raises:
        DeploymentError: it does not respond, or none is configured.
    """
    if not PREFECT_API_URL.value():
        raise DeploymentError(
            "PREFECT_API_URL is not set. Start a server with `prefect server start`, and set it to "
            "the server's address, such as http://127.0.0.1:4200/api."
        )
    async with get_client() as client:
        error = await client.api_healthcheck()
    url = str(client.api_url.copy_with(userinfo=b"")).rstrip("/")
    if error is not None:
        reason = str(error) or type(error).__name__
        if isinstance(error, PrefectHTTPStatusError):
            # Its text has the URL, which may have a password.
            reason = f"status {error.response.status_code}"
        raise DeploymentError(
            f"No Prefect server responds at {url} ({reason}). "
            "Start one with `prefect server start`, or correct PREFECT_API_URL."
        )
    return url


async def find_block(
    slugs: Sequence[str], settings: Settings, server: str | None
) -> tuple[Any, str]:
    """The block that runs use; or the block that `prefect-wix setup` would save.

    Args:
        slugs: the documents that may hold it.
        settings: the values of the documents' variables.
        server: the Prefect server; None to use the settings only.

    Returns:
        The block, and what is wrong with the saved one; empty if nothing is.

    Raises:
        DeploymentError: there is no block and the settings have none.
        ValueError: a setting is invalid.
    """
    documents = [one for one in DOCUMENTS if one.slug in slugs]
    for one in documents:
        made = None if one.missing_variables(settings) else one.make_block(settings)
        saved = await one.load_block() if server else None
        if saved and made and any(getattr(saved, n) != getattr(made, n) for n in one.variables):
            return saved, f"{one.slug} differs from the settings. Run `prefect-wix setup`."
        if made and server and not saved:
            return made, f"{one.slug} is not saved. Run `prefect-wix setup`."
        if made or saved:
            return saved or made, ""
    variables = " and ".join(documents[0].missing_variables({}))
    problem = f"There is no block {' or '.join(slugs)}" if server else "No Prefect server responds"
    raise DeploymentError(
        f"{problem}. Set {variables} in the environment or in .env, and run `prefect-wix setup`."
    )


async def save_documents(
    settings: Settings,
    *,
    documents: Sequence[Document] = DOCUMENTS,
    echo: Callable[[str], None] = print,
) -> bool:
    """Save every document whose required variables are set, and the rate limit of its site.

    The block types of all documents are registered, so that the others can be created in the UI.

    Args:
        settings: the values of the documents' variables.
        documents: what to save.
        echo: receives one line per document and limit: saved, skipped or invalid, and no secret.

    Returns:
        False if a document was invalid.
    """
    return all([await _save(document, settings, echo) for document in documents])


async def _save(document: Document, settings: Settings, echo: Callable[[str], None]) -> bool:
    await document.block_type.aregister_type_and_schema()
    if missing := document.missing_variables(settings):
        verb = "is" if len(missing) == 1 else "are"
        echo(f"skipped   {document.slug}: {' and '.join(missing)} {verb} not set")
        return True
    try:
        block = document.make_block(settings)
    except ValueError as error:
        echo(f"invalid   {error}")
        return False
    await block.asave(document.name, overwrite=True)
    echo(f"saved     {document.slug}")
    if isinstance(block, WixCredentials | WixAppCredentials):
        name = await save_limit(block.site_id, block.requests_per_minute)
        echo(f"saved     limit {name}: {block.requests_per_minute} requests a minute")
    return True

"""``python -m blocks``: create or update block documents and rate limits from settings.

Reads environment variables, then a ``.env`` file in the current folder. Prints which documents were
saved and which were skipped, and no secret. Repeated runs are safe.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values
from prefect.blocks.core import Block
from pydantic import ValidationError

from prefect_wix import (
    SessionsWarehouse,
    WixAccountCredentials,
    WixAppCredentials,
    WixCredentials,
)
from prefect_wix.blocks.shared_limit import save_limit

Settings = Mapping[str, str]


@dataclass(frozen=True)
class Document:
    """A block document and the environment variables of its fields."""

    block_type: type[Block]
    name: str
    required: Mapping[str, str]
    """Field -> variable."""
    optional: Mapping[str, str]
    """Field -> variable."""

    @property
    def slug(self) -> str:
        """The slug by which deployments refer to the document."""
        return f"{self.block_type.get_block_type_slug()}/{self.name}"

    def missing(self, settings: Settings) -> list[str]:
        """The required variables that are not set."""
        return [variable for variable in self.required.values() if not settings.get(variable)]

    def make_block(self, settings: Settings) -> Block:
        """The block with the values of the variables that are set.

        Raises:
            ValidationError: a value is invalid.
        """
        fields = {**self.required, **self.optional}
        values = {field: settings[name] for field, name in fields.items() if settings.get(name)}
        return self.block_type(**values)


DOCUMENTS = (
    Document(
        WixCredentials,
        "wix",
        required={"api_key": "WIX_API_KEY", "site_id": "WIX_SITE_ID"},
        optional={"base_url": "WIX_BASE_URL"},
    ),
    Document(
        WixAppCredentials,
        "wix-app",
        required={
            "app_id": "WIX_APP_ID",
            "app_secret": "WIX_APP_SECRET",
            "instance_id": "WIX_INSTANCE_ID",
        },
        optional={"base_url": "WIX_BASE_URL"},
    ),
    Document(
        WixAccountCredentials,
        "wix-account",
        required={"api_key": "WIX_ACCOUNT_API_KEY", "account_id": "WIX_ACCOUNT_ID"},
        optional={"base_url": "WIX_BASE_URL"},
    ),
    Document(
        SessionsWarehouse,
        "sessions",
        required={"url": "WIX_WAREHOUSE_URL"},
        optional={"schema": "WIX_WAREHOUSE_SCHEMA"},
    ),
)


async def save_documents(settings: Settings, echo: Callable[[str], None] = print) -> bool:
    """Save every document whose required variables are set, and the rate limit of its site.

    Returns:
        False if a document was invalid.
    """
    results = [await _save(document, settings, echo) for document in DOCUMENTS]
    return all(results)


async def _save(document: Document, settings: Settings, echo: Callable[[str], None]) -> bool:
    missing = document.missing(settings)
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        echo(f"skipped   {document.slug}: {' and '.join(missing)} {verb} not set")
        return True
    try:
        block = document.make_block(settings)
    except ValidationError as error:
        echo(f"invalid   {document.slug}: {'; '.join(one['msg'] for one in error.errors())}")
        return False
    # The oldest supported Prefect has no `asave`; `save` can be awaited in all versions.
    await block.save(document.name, overwrite=True)
    echo(f"saved     {document.slug}")
    if isinstance(block, WixCredentials | WixAppCredentials):
        await _save_limit(block, echo)
    return True


async def _save_limit(
    credentials: WixCredentials | WixAppCredentials, echo: Callable[[str], None]
) -> None:
    name = await save_limit(credentials.site_id, credentials.requests_per_minute)
    echo(f"saved     limit {name}: {credentials.requests_per_minute} requests a minute")


def read_settings(folder: Path) -> Settings:
    """The environment variables, and the values of a ``.env`` file in the folder below them."""
    from_file = {name: value for name, value in dotenv_values(folder / ".env").items() if value}
    return {**from_file, **os.environ}


if __name__ == "__main__":
    raise SystemExit(0 if asyncio.run(save_documents(read_settings(Path.cwd()))) else 1)

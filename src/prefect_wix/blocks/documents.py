"""The block documents and rate limits that the deployments need, saved from settings.

`prefect-wix setup` calls `save_documents`. The deployments refer to the documents by their slugs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values
from prefect.blocks.core import Block
from pydantic import ValidationError

from prefect_wix.blocks.credentials import WixAccountCredentials, WixAppCredentials, WixCredentials
from prefect_wix.blocks.shared_limit import save_limit
from prefect_wix.blocks.warehouse import SessionsWarehouse

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
    results = [await _save(document, settings, echo) for document in documents]
    return all(results)


async def _save(document: Document, settings: Settings, echo: Callable[[str], None]) -> bool:
    await document.block_type.aregister_type_and_schema()
    values = {field: settings.get(name) for field, name in document.variables.items()}
    required = [name for name, one in document.block_type.model_fields.items() if one.is_required()]
    missing = [document.variables[field] for field in required if not values[field]]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        echo(f"skipped   {document.slug}: {' and '.join(missing)} {verb} not set")
        return True
    try:
        block = document.block_type(**{field: text for field, text in values.items() if text})
    except ValidationError as error:
        reasons = (one["msg"].removeprefix("Value error, ") for one in error.errors())
        echo(f"invalid   {document.slug}: {'; '.join(reasons)}")
        return False
    await block.asave(document.name, overwrite=True)
    echo(f"saved     {document.slug}")
    if isinstance(block, WixCredentials | WixAppCredentials):
        name = await save_limit(block.site_id, block.requests_per_minute)
        echo(f"saved     limit {name}: {block.requests_per_minute} requests a minute")
    return True

"""``python -m blocks``: make or update block documents and limits from environment variables.

Reads the environment and, for what is not set there, a ``.env`` file in the current folder. Says
what it saved and what it left out; never prints a secret. Run it as often as you like.
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
    """One block document: its name, the variables it needs, those it may have, and its maker."""

    block_type: type[Block]
    name: str
    needs: Mapping[str, str]
    """Field -> variable."""
    may_have: Mapping[str, str]

    @property
    def slug(self) -> str:
        """What a deployment refers to it by."""
        return f"{self.block_type.get_block_type_slug()}/{self.name}"

    def missing(self, settings: Settings) -> list[str]:
        """The variables it needs and does not find."""
        return [variable for variable in self.needs.values() if not settings.get(variable)]

    def make(self, settings: Settings) -> Block:
        """The block.

        Raises:
            ValidationError: a value is refused.
        """
        fields = {**self.needs, **self.may_have}
        given = {field: settings[name] for field, name in fields.items() if settings.get(name)}
        return self.block_type(**given)


DOCUMENTS = (
    Document(
        WixCredentials,
        "wix",
        needs={"api_key": "WIX_API_KEY", "site_id": "WIX_SITE_ID"},
        may_have={"base_url": "WIX_BASE_URL"},
    ),
    Document(
        WixAppCredentials,
        "wix-app",
        needs={
            "app_id": "WIX_APP_ID",
            "app_secret": "WIX_APP_SECRET",
            "instance_id": "WIX_INSTANCE_ID",
        },
        may_have={"base_url": "WIX_BASE_URL"},
    ),
    Document(
        WixAccountCredentials,
        "wix-account",
        needs={"api_key": "WIX_ACCOUNT_API_KEY", "account_id": "WIX_ACCOUNT_ID"},
        may_have={"base_url": "WIX_BASE_URL"},
    ),
    Document(
        SessionsWarehouse,
        "sessions",
        needs={"url": "WIX_WAREHOUSE_URL"},
        may_have={"schema": "WIX_WAREHOUSE_SCHEMA"},
    ),
)


async def save_documents(settings: Settings, say: Callable[[str], None] = print) -> bool:
    """Save every document whose variables are set.

    Returns:
        Whether every document that is set was also valid.
    """
    results = [await _save(document, settings, say) for document in DOCUMENTS]
    return all(results)


async def _save(document: Document, settings: Settings, say: Callable[[str], None]) -> bool:
    missing = document.missing(settings)
    if missing:
        say(f"left out  {document.slug}: set {' and '.join(missing)} to have it")
        return True
    try:
        block = document.make(settings)
    except ValidationError as error:
        say(f"refused   {document.slug}: {'; '.join(one['msg'] for one in error.errors())}")
        return False
    # `asave` is newer than the oldest Prefect that is allowed; `save` can be awaited in all.
    await block.save(document.name, overwrite=True)
    say(f"saved     {document.slug}")
    if isinstance(block, WixCredentials | WixAppCredentials):
        await _save_limit(block, say)
    return True


async def _save_limit(
    credentials: WixCredentials | WixAppCredentials, say: Callable[[str], None]
) -> None:
    """The site's request budget, which all runs share."""
    name = await save_limit(credentials.site_id, credentials.requests_per_minute)
    say(f"saved     limit {name}: {credentials.requests_per_minute} requests a minute")


def read_settings(folder: Path) -> Settings:
    """The environment, over a ``.env`` file in the folder."""
    from_file = {name: value for name, value in dotenv_values(folder / ".env").items() if value}
    return {**from_file, **os.environ}


if __name__ == "__main__":
    raise SystemExit(0 if asyncio.run(save_documents(read_settings(Path.cwd()))) else 1)

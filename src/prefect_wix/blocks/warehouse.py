"""The warehouse block: the URL of a warehouse, stored as a secret.

The engines that the URL selects are in `prefect_wix.warehouse`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Self

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, model_validator

from prefect_wix.blocks.credentials import LOGO_URL
from prefect_wix.errors import MissingExtraError, WarehouseAccessError
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.interface import Warehouse


class SessionsWarehouse(Block):
    """The warehouse that sessions are loaded into.

    Examples:
        Create or upgrade its tables, in a script, a coroutine or a notebook:
        ```python
        from prefect import flow
        from prefect.utilities.asyncutils import run_coro_as_sync
        from prefect_wix import SessionsWarehouse

        @flow
        def create_tables():
            warehouse = SessionsWarehouse.load("BLOCK_NAME")
            run_coro_as_sync(warehouse.get_warehouse().prepare())

        create_tables()
        ```
    """

    model_config = ConfigDict(populate_by_name=True, hide_input_in_errors=True)

    _block_type_name = "Wix Sessions Warehouse"
    _block_type_slug = "wix-sessions-warehouse"
    _logo_url = LOGO_URL
    _documentation_url = HttpUrl("https://duckdb.org/docs/stable/connect/overview")

    url: SecretStr = Field(
        title="URL",
        description="Such as duckdb:///sessions.duckdb, postgresql://user:password@host/database, "
        "parquet:///folder or s3://bucket/prefix. Three slashes begin a relative path, four an "
        "absolute one.",
    )
    schema_: str | None = Field(
        default=None,
        alias="schema",
        title="Schema",
        description="The schema of the tables. Default: the warehouse's default schema.",
    )

    @model_validator(mode="after")
    def _engine_is_known(self) -> Self:
        # A process without the driver or the credentials can load the block and hand it on; its URL
        # is checked before.
        with suppress(MissingExtraError, WarehouseAccessError):
            self.get_warehouse()
        return self

    def get_warehouse(self) -> Warehouse:
        """The warehouse. The connection is opened on first use."""
        return open_warehouse(self.url.get_secret_value(), schema=self.schema_)

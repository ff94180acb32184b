"""The warehouse block: the URL of a warehouse, stored as a secret, or the name of a login block.

The engines that the URL selects are in `prefect_wix.warehouse`. The login blocks are those of
prefect-snowflake and prefect-gcp, which need not be installed.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from typing import Any, Self

from prefect.blocks.core import Block
from prefect.utilities.asyncutils import run_coro_as_sync
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, model_validator

from prefect_wix.blocks.credentials import LOGO_URL
from prefect_wix.errors import MissingExtraError, WarehouseAccessError
from prefect_wix.warehouse.bigquery import BigQueryWarehouse
from prefect_wix.warehouse.factory import check_schema, open_warehouse
from prefect_wix.warehouse.interface import Warehouse
from prefect_wix.warehouse.snowflake import SnowflakeWarehouse

_LOGIN_BLOCK = re.compile("(snowflake-connector|gcp-credentials)/[a-z0-9-]+")


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
        "absolute one. Or a block that has the login: snowflake-connector/name, or "
        "gcp-credentials/name with the BigQuery dataset as the schema.",
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
        url = self.url.get_secret_value()
        if not _LOGIN_BLOCK.fullmatch(url):
            with suppress(MissingExtraError, WarehouseAccessError):
                self.get_warehouse()
        elif self.schema_ is not None or url.startswith("gcp"):
            check_schema(self.schema_ or "")
        return self

    def get_warehouse(self) -> Warehouse:
        """The warehouse. The connection is opened on first use; a login block is loaded at once.

        Raises:
            WarehouseAccessError: the login block is not on the Prefect server, or its package is
                not installed.
        """
        url = self.url.get_secret_value()
        if _LOGIN_BLOCK.fullmatch(url):
            return _by_login_block(url, self.schema_)
        return open_warehouse(url, schema=self.schema_)


def _by_login_block(slug: str, schema: str | None) -> Warehouse:
    try:
        block: Any = run_coro_as_sync(Block.aload(slug))
    except Exception as error:  # noqa: BLE001 - it may quote a field of the block
        kind = type(error).__name__
    else:
        if slug.startswith("gcp"):
            client = block.get_bigquery_client
            return BigQueryWarehouse(client, project=block.project, dataset=schema or "")
        login = block.credentials
        return SnowflakeWarehouse(
            partial(login.get_client, database=block.database, warehouse=block.warehouse),
            place=f"snowflake://{login.account}/{block.database}",
            schema=check_schema(schema or block.schema_),
        )
    raise WarehouseAccessError(
        f"The block {slug} can't be loaded ({kind}). Nothing was changed. Save it on the Prefect "
        f"server, install prefect-{slug.partition('-')[0]} where the flows run, then run again."
    )

"""Blocks of prefect-snowflake and prefect-gcp in place of a URL, on emulators of the databases."""

from __future__ import annotations

import json
from functools import partial

import pytest
import snowflake.connector
from google.cloud import bigquery
from google.oauth2.service_account import Credentials
from prefect import flow
from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field, SecretStr, ValidationError

from prefect_wix import SessionsWarehouse
from prefect_wix.errors import WarehouseAccessError
from tests.warehouses import PASSWORD, ids_of, land

try:
    from prefect_gcp import GcpCredentials
    from prefect_snowflake import SnowflakeConnector, SnowflakeCredentials
except ModuleNotFoundError:
    # The fields and methods of the real ones that we use.
    class SnowflakeCredentials(Block):
        account: str
        user: str
        password: SecretStr

        def get_client(self, **options):
            login = {"user": self.user, "password": self.password.get_secret_value()}
            return snowflake.connector.connect(account=self.account, **login, **options)

    class SnowflakeConnector(Block):
        _block_type_slug = "snowflake-connector"
        credentials: SnowflakeCredentials
        database: str
        warehouse: str
        schema_: str = Field(alias="schema")

    class GcpCredentials(Block):
        _block_type_slug = "gcp-credentials"
        service_account_info: SecretDict
        project: str

        def get_bigquery_client(self, project=None, location=None):
            info = self.service_account_info.get_secret_value()
            login = Credentials.from_service_account_info(info)
            return bigquery.Client(project, credentials=login, location=location)


async def loaded_by(slug, schema=None):
    """What a flow lands in the warehouse of a stored block that names a login block."""
    await SessionsWarehouse(url=slug, schema=schema).asave("by-login", overwrite=True)

    @flow
    async def load():
        warehouse = (await SessionsWarehouse.aload("by-login")).get_warehouse()
        await warehouse.prepare()
        return (await land(warehouse, ids_of("a", 20))).sessions

    return await load()


@pytest.mark.emulators
async def test_a_snowflake_connector_is_the_login_of_a_load(make_bench, monkeypatch):
    """With its account, user, password, database and warehouse, and its schema or another one."""
    bench = make_bench("snowflake")
    there = {key: bench._options[key] for key in ("host", "port", "protocol")}
    connect = partial(snowflake.connector.connect, **there)
    monkeypatch.setattr(snowflake.connector, "connect", connect)
    login = SnowflakeCredentials(account="account", user="me", password=PASSWORD)
    connector = SnowflakeConnector(
        credentials=login, database="SHOP", warehouse="small", schema=bench.schema
    )
    await connector.asave("shop", overwrite=True)
    assert await loaded_by("snowflake-connector/shop") == 20
    assert sorted(await bench.check()) == sorted(ids_of("a", 20))
    other = f"{bench.schema}_other"
    assert await loaded_by("snowflake-connector/shop", other) == 20
    assert len(await bench.sql(f"SELECT * FROM {other}.wix_session_ids")) == 20


@pytest.mark.emulators
async def test_gcp_credentials_are_the_login_of_a_load(make_bench):
    """The key is in the block, and no file on the worker."""
    bench = make_bench("bigquery")
    key = json.loads(bench._key.read_text())
    block = GcpCredentials(service_account_info=key, project="project")
    await block.asave("shop", overwrite=True)
    assert await loaded_by("gcp-credentials/shop", bench.schema) == 20
    assert sorted(await bench.check()) == sorted(ids_of("a", 20))


@pytest.mark.parametrize("slug", ["snowflake-connector/nowhere", "gcp-credentials/nowhere"])
async def test_a_login_block_that_is_not_there_is_one_sentence(slug):
    """The warehouse block can be handed on; the worker that opens it names the block."""
    block = SessionsWarehouse(url=slug, schema="wix")
    package = f"prefect-{slug.partition('-')[0]}"
    with pytest.raises(WarehouseAccessError, match=f"{slug} .* install {package} where"):
        block.get_warehouse()


@pytest.mark.parametrize(
    ("url", "schema", "sentence"),
    [
        ("gcp-credentials/shop", None, "The schema of the warehouse must"),
        ("snowflake-connector/shop", "a b", "The schema of the warehouse must"),
        ("snowflake-connector/Shop hush", "wix", "Unsupported warehouse URL"),
        ("slack-webhook/hush", "wix", "Unsupported warehouse URL"),
    ],
)
def test_a_wrong_login_block_is_refused_when_the_block_is_created(url, schema, sentence):
    """Its schema too, since BigQuery has no default dataset."""
    with pytest.raises(ValidationError, match=sentence) as caught:
        SessionsWarehouse(url=url, schema=schema)
    assert "hush" not in str(caught.value)

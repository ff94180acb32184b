"""Snowflake: connections, errors and URLs. `test_warehouse` has the tests of every warehouse."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import pytest
import snowflake.connector
from snowflake.connector import errors

from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.errors import (
    MissingExtraError,
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
)
from prefect_wix.planning.partitions import JobRecord
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.snowflake import SnowflakeWarehouse
from tests.emulators import make_key
from tests.engines.test_warehouse import full_text
from tests.warehouses import MOBILE, NOON, a_record, ids_of, land

URL = "snowflake://me@account/shop"


@pytest.mark.emulators
async def test_no_staging_table_is_left(make_bench):
    """It is temporary, and ends with the session of a publish, also of a failed one."""
    bench = make_bench("snowflake")
    warehouse = await bench.ready()
    await land(warehouse, ["a"])
    await bench.sql(f"DROP TABLE {bench.name('wix_session_jobs')}")
    with pytest.raises(WarehouseSchemaError):
        await land(warehouse, ["b"], record=a_record(hours=1))
    tables = await bench.sql("SELECT table_name FROM information_schema.tables")
    assert not [name for (name,) in tables if "STAGED" in name]


@pytest.mark.emulators
async def test_20_000_ids_land(make_bench):
    """One file is uploaded and copied."""
    bench = make_bench("snowflake")
    assert (await land(await bench.ready(), ids_of("3f2a7c1e", 20_000))).sessions == 20_000
    assert len(await bench.check()) == 20_000


# -- without an emulator -------------------------------------------------------------------------


@pytest.fixture
def connections(monkeypatch):
    """The options of each connection; none succeeds."""
    opened = []

    def connect(**options):
        opened.append(options)
        raise errors.DatabaseError("JWT token is invalid. hush", errno=250001)

    monkeypatch.setattr(snowflake.connector, "connect", connect)
    return opened


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("snowflake://me:p%40ss@a-b.eu/shop/raw", {"password": "p@ss", "account": "a-b.eu"}),
        (f"{URL}?private_key_file=%2Fk%2Ekey.p8", {"private_key_file": "/k.key.p8"}),
        (
            f"{URL}?authenticator=oauth&token=t%2Bo&role=loader&warehouse=small",
            {"authenticator": "oauth", "token": "t+o", "role": "loader", "warehouse": "small"},
        ),
    ],
)
async def test_a_url_sets_the_options_of_the_connector(connections, url, options):
    """Password, key pair or token; every time is in UTC, and every wait ends."""
    with pytest.raises(WarehouseAccessError, match=r"rejects .*\(DatabaseError 250001\)") as caught:
        await open_warehouse(url, schema="wix").prepare()
    [given] = connections
    common = {"user": "me", "database": "shop", "schema": "WIX", "autocommit": False}
    assert {**given, **options, **common} == given
    assert given["session_parameters"]["TIMEZONE"] == "UTC"
    assert given["session_parameters"]["LOCK_TIMEOUT"] == 60
    assert "hush" not in full_text(caught.value)


@pytest.mark.parametrize(
    "url", [f"{URL}?login_timeout=3", f"{URL}?user=hush", f"{URL}?insecure_mode=hush"]
)
def test_an_unknown_setting_is_explained(url):
    """The error lists the settings that a URL may have."""
    with pytest.raises(ValueError, match=r"authenticator, .*private_key_file, ") as caught:
        open_warehouse(url)
    assert "hush" not in full_text(caught.value)


async def test_a_key_that_is_no_file_is_an_access_error(tmp_path):
    """The connector itself reads it; the error does not repeat its path."""
    key = make_key(tmp_path, "http://127.0.0.1:1")
    for path in (tmp_path / "hush.p8", key):
        warehouse = open_warehouse(f"{URL}?private_key_file={path}")
        with pytest.raises(WarehouseAccessError, match="Check account, user, key") as caught:
            await warehouse.prepare()
        assert str(tmp_path) not in full_text(caught.value)


class Failing:
    """A connection whose statements fail."""

    def __init__(self, error):
        self._error = error

    def cursor(self):
        raise self._error

    def close(self):
        return


@pytest.mark.parametrize(
    ("kind", "state", "raised", "affects_all"),
    [
        (errors.ProgrammingError, "57014", WarehouseBusyError, False),
        (errors.ProgrammingError, "42501", WarehouseAccessError, True),
        (errors.ProgrammingError, "57P03", WarehouseAccessError, False),
        (errors.OperationalError, None, WarehouseAccessError, False),
        (errors.InterfaceError, None, WarehouseAccessError, False),
        (errors.ProgrammingError, "42S02", WarehouseSchemaError, True),
        (errors.ProgrammingError, "22018", WarehouseSchemaError, False),
        (errors.ProgrammingError, "XX000", WarehouseError, False),
    ],
)
async def test_errors_are_classified(kind, state, raised, affects_all):
    """Busy, access, schema and all others, with Snowflake's message."""
    error = kind("it failed", errno=625, sqlstate=state)
    warehouse = SnowflakeWarehouse(
        lambda **_: Failing(error), place="snowflake://account/shop", schema="wix"
    )
    with pytest.raises(WarehouseError, match="it failed") as caught:
        await warehouse.receipts("site-1", MOBILE.window)
    assert type(caught.value) is raised
    assert caught.value.affects_all is affects_all


class Recording:
    """A connection, its cursor and its statements; its tables are empty."""

    def __init__(self):
        self.statements = []

    def cursor(self):
        return nullcontext(self)

    def execute(self, sql, values=None):
        self.statements.append(sql)
        return self

    def fetchall(self):
        return [[NOON]] if "CURRENT_TIMESTAMP" in self.statements[-1] else []

    def commit(self):
        self.statements.append("COMMIT")

    def close(self):
        return


async def test_a_decision_is_made_after_the_lock_is_held():
    """fakesnow has no locks: this is what makes an older result lose on Snowflake."""
    connection = Recording()
    warehouse = SnowflakeWarehouse(
        lambda **_: connection, place="snowflake://account/shop", schema="wix"
    )
    await warehouse.claim(JobRecord.intend(MOBILE, at=NOON, run_id=None), adopt_since=NOON)
    lock, clock, read, write, end = connection.statements
    assert lock == 'UPDATE "WIX".wix_session_schema SET version = version'
    assert clock == "SELECT CURRENT_TIMESTAMP()"
    assert read.startswith("SELECT record_id")
    assert write.startswith("INSERT")
    assert end == "COMMIT"


@pytest.mark.parametrize(
    ("url", "module"), [(URL, "snowflake.connector"), ("bigquery://p/d", "google.cloud.bigquery")]
)
def test_a_block_whose_driver_is_missing_can_be_handed_on(monkeypatch, url, module):
    """Its URL is checked all the same, and the warehouse names the package."""
    monkeypatch.setitem(sys.modules, module, None)
    block = SessionsWarehouse(url=url)
    with pytest.raises(MissingExtraError, match="pip install 'prefect-wix"):
        block.get_warehouse()
    with pytest.raises(ValueError, match=r"ambiguous|Write bigquery"):
        SessionsWarehouse(url=f"{url}/x/y")

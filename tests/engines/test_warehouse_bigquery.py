"""BigQuery: races, errors and URLs. `test_warehouse` has the tests of every warehouse.

bqemulator cancels no transaction that runs at the same time as another one, so the tests of lost
races raise BigQuery's documented error themselves, or let another load write before the script.
"""

from __future__ import annotations

import asyncio
import pickle
import re
import threading
from datetime import timedelta

import pytest
from google.api_core import exceptions as google
from google.auth.exceptions import RefreshError
from google.cloud import bigquery as google_bigquery

from prefect_wix.errors import (
    WarehouseAccessError,
    WarehouseBusyError,
    WarehouseError,
    WarehouseSchemaError,
)
from prefect_wix.planning.partitions import JobRecord, JobState
from prefect_wix.warehouse import bigquery
from prefect_wix.warehouse.bigquery import _WORDS, BigQueryWarehouse, _Script, _Session
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.interface import PublishResult
from prefect_wix.warehouse.schema import SESSIONS, Statement, drive
from prefect_wix.warehouse.transactions import SessionTransactions
from tests.emulators import make_key
from tests.engines.test_warehouse import full_text
from tests.warehouses import MOBILE, NOON, a_record, ids_of, land, on_day, store

URL = "bigquery://project/wix"
CANCELLED = (
    "Query error: Transaction is aborted due to concurrent update against table "
    "project:wix.wix_session_schema. Transaction ID: 61e3-0 at [2:1]"
)

# -- races on the emulator -----------------------------------------------------------------------


@pytest.fixture
def bench(make_bench):
    return make_bench("bigquery")


@pytest.fixture
async def warehouse(bench):
    return with_tries(await bench.ready(), 2)


def with_tries(warehouse, tries):
    warehouse._retry_waits = (0.01,) * (tries - 1)
    return warehouse


class NoLocks(dict):
    """Loads that do not wait for each other, as in different processes."""

    def __missing__(self, place):
        return threading.Lock()


@pytest.fixture
def before_script(monkeypatch):
    """Set what happens between the reads and the script of the next transactions, once each."""
    monkeypatch.setattr(bigquery, "_LOCKS", NoLocks())
    happenings, send = [], _Script.send

    def send_late(script):
        if happenings:
            happenings.pop(0)()
        send(script)

    monkeypatch.setattr(_Script, "send", send_late)
    return happenings


def publish(bench, ids, partition=MOBILE, **when):
    """What another process publishes meanwhile."""
    return lambda: asyncio.run(land(bench.open(), ids, partition, **when))


def cancel():
    raise google.BadRequest(CANCELLED)


@pytest.mark.emulators
async def test_a_decision_is_repeated_after_a_lost_race(bench, warehouse, before_script):
    """Another load publishes between the read and the script; the decision uses its contents."""
    await land(warehouse, ["a", "b"])
    before_script.append(publish(bench, ["b", "c"], hours=1))
    landed = await land(warehouse, ["c", "d"], hours=2)
    assert landed == PublishResult(JobState.LANDED, 2, added=1, removed=1, kept=1)
    assert sorted(await bench.check()) == ["c", "d"]


@pytest.mark.emulators
async def test_a_listing_overtaken_by_a_newer_one_is_superseded(bench, warehouse, before_script):
    """Nothing of the older listing is written."""
    before_script.append(publish(bench, ["new"], hours=2))
    assert (await land(warehouse, ["old"], record=a_record(hours=1))).state is JobState.SUPERSEDED
    assert await bench.check() == ["new"]


@pytest.mark.emulators
async def test_the_same_listing_twice_at_once_lands_once(bench, warehouse, before_script):
    """No session is doubled, even if there was nothing to delete."""
    before_script.append(publish(bench, ["a", "b"]))
    assert (await land(warehouse, ["a", "b"], record=a_record(hours=1))).state is JobState.UNCHANGED
    assert sorted(await bench.check()) == ["a", "b"]


@pytest.mark.emulators
async def test_a_claim_overtaken_by_a_submit_adopts_the_job(bench, warehouse, before_script):
    """Another run submits the job after the read."""
    record = a_record()
    before_script.append(lambda: asyncio.run(store(bench.open(), record)))
    claim = await warehouse.claim(JobRecord.intend(MOBILE, at=NOON, run_id=None), adopt_since=NOON)
    assert claim.adopted
    assert claim.record == record


@pytest.mark.emulators
async def test_a_cancelled_transaction_is_repeated(bench, warehouse, before_script):
    """Of two transactions at once BigQuery cancels one."""
    before_script.append(cancel)
    assert (await land(warehouse, ["a"], record=a_record())).state is JobState.LANDED
    assert await bench.check() == ["a"]


@pytest.mark.emulators
async def test_a_race_lost_in_every_attempt_is_a_busy_error(bench, warehouse, before_script):
    """The attempts are limited, and nothing is published."""
    before_script += [cancel, publish(bench, ["other"])]
    with pytest.raises(WarehouseBusyError, match="each of the 2 attempts") as caught:
        await land(warehouse, ["a"], record=a_record(hours=9))
    assert await bench.check() == ["other"]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.emulators
async def test_a_publish_to_another_partition_is_no_lost_race(bench, warehouse, before_script):
    """A change of another partition after the read does not matter."""
    before_script.append(publish(bench, ["x"], on_day(9)))
    assert (await land(with_tries(warehouse, 1), ["a"], record=a_record())).state is JobState.LANDED


@pytest.mark.emulators
async def test_the_order_of_rows_is_no_lost_race(warehouse):
    """Rows return in any order, and the check in the script still succeeds."""
    for hours in range(5):
        intent = JobRecord.intend(MOBILE, at=NOON + timedelta(hours=hours), run_id=None)
        await store(warehouse, intent)
    intent = JobRecord.intend(MOBILE, at=NOON, run_id=None)
    assert (await with_tries(warehouse, 1).claim(intent, adopt_since=NOON)).orphans == 5


@pytest.mark.emulators
async def test_a_script_that_fails_leaves_the_old_version(bench, warehouse):
    """Its last statement fails, IDs and receipt are the old ones, and no staging table is left."""
    await land(warehouse, ["a", "b"])
    await bench.sql(f"ALTER TABLE {bench.name('wix_session_jobs')} DROP COLUMN reason")
    with pytest.raises(WarehouseSchemaError, match="not the ones this version writes"):
        await land(warehouse, ["c"], record=a_record(hours=1))
    assert sorted(await bench.check()) == ["a", "b"]
    tables = await bench.sql(f"SELECT table_name FROM {bench.schema}.INFORMATION_SCHEMA.TABLES")
    assert not [name for (name,) in tables if "staged" in name]


@pytest.mark.emulators
async def test_20_000_ids_land(bench, warehouse):
    """One load job stages them."""
    ids = ids_of("3f2a7c1e-0000-4000-8000", 20_000)
    assert (await land(warehouse, ids)).sessions == 20_000
    assert len(await bench.check()) == 20_000


# -- without an emulator -------------------------------------------------------------------------


class FailingClient:
    """Google's client, every query of which fails."""

    def __init__(self, error):
        self._error = error

    def query(self, *args, **kwargs):
        raise self._error

    def close(self):
        return


def reason(name, kind=google.BadRequest):
    return kind("It failed", errors=[{"reason": name, "message": "It failed"}])


@pytest.mark.parametrize(
    ("error", "kind", "affects_all"),
    [
        (google.Forbidden("Access Denied: Dataset project:wix"), WarehouseAccessError, True),
        (google.Unauthorized("Request had invalid credentials"), WarehouseAccessError, True),
        (google.ServiceUnavailable("Try again"), WarehouseAccessError, False),
        (google.RetryError("Timeout of 600.0s exceeded", None), WarehouseAccessError, False),
        (RefreshError("invalid_grant: Invalid JWT Signature"), WarehouseAccessError, True),
        (ConnectionError("Connection refused"), WarehouseAccessError, False),
        (reason("notFound", google.NotFound), WarehouseSchemaError, True),
        (reason("invalidQuery"), WarehouseSchemaError, True),
        (reason("resourcesExceeded"), WarehouseError, False),
    ],
)
async def test_errors_of_google_are_classified(error, kind, affects_all):
    """The error has Google's message."""
    warehouse = BigQueryWarehouse(
        lambda **_: FailingClient(error), project="project", dataset="wix"
    )
    with pytest.raises(WarehouseError, match=re.escape(str(error).partition(";")[0])) as caught:
        await warehouse.receipts("site-1", MOBILE.window)
    assert type(caught.value) is kind
    assert caught.value.affects_all is affects_all


def creation():
    """The statements that create the tables in an empty dataset."""
    statements = []

    def execute(statement):
        statements.append(statement)
        return [[0]] if statement.sql.startswith(("SELECT max", "SELECT count")) else []

    with pytest.raises(WarehouseSchemaError, match="lacks"):
        drive(SessionTransactions("wix").prepare(SESSIONS), execute)
    return statements


def test_every_translated_expression_is_used():
    """A changed statement would otherwise lose its translation silently."""
    text = "\n".join(statement.sql for statement in creation())
    assert not [word for word in _WORDS if word not in text]


def test_tables_are_clustered_by_partition():
    """A query of one partition is not billed for all of them."""
    session = _Session(google_bigquery, None, "project", "wix")
    texts = [session.bind(statement)[0] for statement in creation() if not statement.values]
    tables = [text for text in texts if re.match("CREATE TABLE.*_(ids|receipts|jobs) ", text)]
    assert len(tables) == 3
    for text in tables:
        assert text.endswith(" CLUSTER BY site_id, session_date, segment")


def test_values_are_parameters_and_never_text():
    """Each has BigQuery's type; a value that is missing has none."""
    session = _Session(google_bigquery, None, "project", "wix")
    values = ("it's", None, 7, 1.5, NOON, MOBILE.day)
    text, parameters = session.bind(Statement("SELECT $1, $2, $3, $4, $5, $6", values), first=3)
    assert text == "SELECT @v3, NULL, @v4, @v5, @v6, @v7"
    kinds = [(one.name, one.type_) for one in parameters]
    types = ["STRING", "INT64", "FLOAT64", "TIMESTAMP", "DATE"]
    assert kinds == [(f"v{number}", kind) for number, kind in enumerate(types, start=3)]


@pytest.mark.parametrize(
    ("url", "location"), [(URL, None), (f"{URL}?location=EU", "EU"), ("bigquery://project", None)]
)
def test_a_url_names_project_dataset_and_location(url, location):
    """The schema replaces the dataset of the URL, as in every other warehouse."""
    warehouse = open_warehouse(url, schema="wix")
    assert (warehouse._place, warehouse._location) == (URL, location)


@pytest.mark.parametrize(
    "url",
    [
        "bigquery://project",
        "bigquery:///wix",
        "bigquery://project/wix/table",
        "bigquery://project/a-b",
        "bigquery://pro`ject/wix",
        "bigquery://me:hush@project/wix",
        "bigquery://project/wix?password=hush",
    ],
)
def test_an_invalid_url_is_explained(url):
    """The error says what to write, and contains no password."""
    with pytest.raises(ValueError, match="Write bigquery://project/dataset") as caught:
        open_warehouse(url)
    assert "hush" not in full_text(caught.value)


@pytest.mark.parametrize("key", ["/nowhere/hush.json", '{"private_key":"hush"}', "hush" * 100])
async def test_a_key_that_is_no_file_is_not_repeated(key):
    """The path might be the key itself."""
    warehouse = open_warehouse(f"{URL}?credentials={key.replace('/', '%2F')}")
    with pytest.raises(WarehouseAccessError, match="are no key file") as caught:
        await warehouse.prepare()
    assert "hush" not in full_text(caught.value)


@pytest.mark.parametrize("content", ["hush", '{"private_key": "hush"}', ""])
async def test_an_unreadable_key_is_an_access_error(tmp_path, content):
    """The error does not repeat the key."""
    (tmp_path / "key.json").write_text(content)
    with pytest.raises(WarehouseAccessError, match=r"are no key file|expected format") as caught:
        await open_warehouse(f"{URL}?credentials={tmp_path}/key.json").prepare()
    assert "hush" not in full_text(caught.value)


async def test_without_default_credentials_the_error_says_how_to_set_them(monkeypatch, tmp_path):
    """Google's client says where it looked."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(WarehouseAccessError, match=r"none\.json was not found"):
        await open_warehouse(URL).prepare()


async def test_a_token_service_that_is_away_is_an_access_error(tmp_path, monkeypatch):
    """The error has no piece of the key."""
    monkeypatch.setattr(bigquery, "_RETRY_SECONDS", 1)
    key = make_key(tmp_path, "http://127.0.0.1:1/token")
    warehouse = open_warehouse(f"{URL}?credentials={key}")
    with pytest.raises(WarehouseAccessError, match="can't be reached") as caught:
        await warehouse.receipts("site-1", MOBILE.window)
    assert "PRIVATE" not in full_text(caught.value)

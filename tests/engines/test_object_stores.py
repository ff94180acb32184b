"""Loads write one object store at once: nothing newer is replaced; readers see it whole."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import pytest

from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.errors import WarehouseAccessError, WarehouseSchemaError
from prefect_wix.planning.partitions import CONFIRMING, JobRecord, JobState
from prefect_wix.planning.windows import Window
from prefect_wix.warehouse.decisions import decide_publish
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.interface import PublishResult
from prefect_wix.warehouse.parquet import ParquetWarehouse
from prefect_wix.warehouse.stores import Folder
from tests.engines.racing_loads import listed, submitted
from tests.object_stores import STORES, files_of
from tests.options import repeated
from tests.warehouses import (
    MOBILE,
    NOON,
    ROOT,
    ZONE,
    a_record,
    digest_of,
    ids_of,
    intended,
    land,
    on_day,
)

MARCH = Window(on_day(1).day, on_day(31).day, ZONE)
EMULATED = [pytest.param(one, marks=pytest.mark.emulators) for one in STORES]


@pytest.fixture(params=["parquet", "memory", *EMULATED])
async def bench(request, make_bench):
    bench = make_bench(request.param)
    await bench.ready()
    return bench


@pytest.fixture
def opened(bench):
    """A function that opens the same empty warehouse again."""
    return bench.open


async def test_an_object_store_is_a_warehouse(opened):
    """A second process sees what the first one has written."""
    warehouse = opened()
    assert (await land(warehouse, ["a", "b"])).state is JobState.LANDED
    assert (await land(warehouse, ["a", "b"], hours=1)).state is JobState.UNCHANGED
    assert await land(warehouse, ["b", "c"], hours=3) == PublishResult(JobState.LANDED, 2, 1, 1, 1)
    assert (await land(warehouse, ["x"], hours=2)).state is JobState.SUPERSEDED
    await land(warehouse, [], on_day(9))
    receipts = await opened().receipts("site-1", MARCH)
    assert [(receipt.sessions, receipt.version) for receipt in receipts] == [(2, 2), (0, 1)]
    records = await opened().job_records("site-1", MARCH)
    assert [record.state for record in records if record.partition == MOBILE] == [
        *(JobState.LANDED, JobState.UNCHANGED, JobState.SUPERSEDED, JobState.LANDED)
    ]


@pytest.mark.parametrize("confirms", [False, True])
async def test_a_writer_that_is_delayed_past_a_newer_job_is_superseded(
    bench, opened, confirms, monkeypatch
):
    """It has read the partition, and a newer job replaces or confirms that before it writes.

    The removals that it has written do not count.
    """
    await land(opened(), ["a"], hours=-1)
    decided, continues = threading.Event(), threading.Event()

    def decide_and_wait(listing, contents, at):
        result = decide_publish(listing, contents, at)
        if not decided.is_set():
            decided.set()
            assert continues.wait(30)
        return result

    monkeypatch.setattr("prefect_wix.warehouse.parquet.decide_publish", decide_and_wait)
    delayed = asyncio.create_task(land(opened(), ["at 12:00"], hours=0))
    await asyncio.to_thread(decided.wait, 30)
    newer = await land(opened(), ["a"] if confirms else ["at 17:00"], hours=5)
    assert newer.state is (JobState.UNCHANGED if confirms else JobState.LANDED)
    continues.set()
    assert (await delayed).state is JobState.SUPERSEDED
    assert await bench.check() == (["a"] if confirms else ["at 17:00"])
    assert (await bench.receipt()).confirmed_at == NOON + timedelta(hours=5)
    assert len([*bench.folder.glob("wix_session_removals/*/*/*")]) == (1 if confirms else 2)


@contextmanager
def three_processes():
    command = [sys.executable, "-m", "tests.engines.racing_loads"]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    options["env"] = os.environ | {"PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    with ExitStack() as stack:
        yield [
            stack.enter_context(subprocess.Popen([*command, str(number)], **options))
            for number in range(3)
        ]


@pytest.mark.parametrize("engine", EMULATED)
async def test_three_processes_end_with_the_newest_result(make_bench, engine):
    """Each publishes twelve results in any order: none dies, and each is decided by its time."""
    make_bench(engine)
    with three_processes() as processes:
        for number in range(repeated(2, soak=50)):
            bench = make_bench(engine)
            shutil.rmtree(bench.folder, ignore_errors=True)
            await bench.ready()
            line = f"{number} {bench.url}"
            for process in processes:
                print(line, file=process.stdin, flush=True)
            for process in processes:
                assert await asyncio.to_thread(process.stdout.readline) == "done\n"
            newest = max(max(submitted(line, process)) for process in range(3))
            assert sorted(await bench.check()) == sorted(listed(newest))
            receipt = await bench.receipt()
            assert receipt.confirmed_at == NOON + timedelta(hours=newest)
            assert listed((receipt.submitted_at - NOON) // timedelta(hours=1)) == listed(newest)
            records = await bench.open().job_records("site-1", MARCH)
            assert len(records) == 3 * 12
            assert {record.state for record in records} <= {*CONFIRMING, JobState.SUPERSEDED}


@pytest.mark.parametrize("engine", EMULATED)
@pytest.mark.parametrize("seed", range(repeated(1, soak=20)))
async def test_a_kill_of_one_of_three_processes_harms_no_other(make_bench, engine, seed):
    """The partition has one result whole, and none that is older than those of the others."""
    bench = make_bench(engine)
    await bench.ready()
    line = f"{seed} {bench.url}"
    with three_processes() as processes:
        for process in processes:
            print(line, file=process.stdin, flush=True)
        while not await bench.open().job_records("site-1", MARCH):
            await asyncio.sleep(0.05)
        await asyncio.sleep(random.Random(seed).uniform(0, 0.5))
        processes[0].kill()
        for process in processes[1:]:
            assert await asyncio.to_thread(process.stdout.readline) == "done\n"
    hours = ((await bench.receipt()).confirmed_at - NOON) // timedelta(hours=1)
    assert sorted(await bench.check()) == sorted(listed(hours))
    assert hours >= max(max(submitted(line, process)) for process in (1, 2))
    assert (await land(bench.open(), ["next"], hours=hours + 1)).sessions == 1
    assert await bench.check() == ["next"]


async def test_claims_at_once_are_serialized(opened):
    """Each finds the intents before it, and no job record is lost."""
    intents = [JobRecord.intend(MOBILE, at=NOON, run_id=str(n)) for n in range(8)]
    claims = (opened().claim(one, adopt_since=NOON) for one in intents)
    orphans = [claim.orphans for claim in await asyncio.gather(*claims)]
    records = await opened().job_records("site-1", MARCH)
    assert sorted(record.run_id for record in records) == [str(n) for n in range(8)]
    assert sum(record.state is JobState.INTENDED for record in records) == 1
    assert sum(orphans) == 7


async def test_a_reader_sees_the_old_or_the_new_version(opened):
    """Receipts are read in a loop while large and small versions replace each other."""
    sizes, writer = [4_000, 10, 0], opened()
    digests = {digest_of(ids_of(str(size), size)) for size in sizes}
    await land(writer, ids_of("4000", 4_000))
    reads = 0

    async def read():
        nonlocal reads
        while not done:
            [receipt] = await opened().receipts("site-1", MARCH)
            assert receipt.digest in digests
            reads += 1

    done = False
    reading = asyncio.create_task(read())
    for number in range(repeated(12, soak=200)):
        size = sizes[number % 3]
        await land(writer, ids_of(str(size), size), hours=number + 1)
    done = True
    await reading
    assert reads > 3


async def test_a_large_object_is_read_by_its_end(opened, monkeypatch):
    """The end is found when a smaller object has replaced the one that was listed."""
    monkeypatch.setattr("prefect_wix.warehouse.stores._FOOTER_BYTES", 2_000)
    warehouse = opened()
    await land(warehouse, ids_of("a", 5_000))
    [receipt] = await warehouse.receipts("site-1", MARCH)
    assert receipt.sessions == 5_000
    listed = warehouse._store.files("wix_session_ids")
    await land(warehouse, ["b"], hours=1)
    warehouse._store.files = lambda folder: listed
    [receipt] = await warehouse.receipts("site-1", MARCH)
    assert receipt.sessions == 1


def test_missing_credentials_are_named(monkeypatch):
    """A process without them can load the block and hand it on."""
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    with pytest.raises(WarehouseAccessError, match=r"az://c/x: .*Account must be.*Set those") as e:
        open_warehouse("az://c/x")
    assert "\n" not in str(e.value)
    wrong = "AccountName=a;AccountKey=a2V5;BlobEndpoint=store.example?sig=secret"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", wrong)
    with pytest.raises(WarehouseAccessError, match="Unable parse source url") as e:
        open_warehouse("az://c/x")
    assert "secret" not in str(e.value)
    assert SessionsWarehouse(url="az://c/x").url.get_secret_value() == "az://c/x"
    monkeypatch.setenv("AWS_PROFILE", "unknown")
    with pytest.raises(WarehouseAccessError, match=r"s3://c/x: .*profile \(unknown\).*Set those"):
        open_warehouse("s3://c/x")


async def test_an_older_layout_is_refused(tmp_path):
    """Its data is not changed, and nothing is loaded again."""
    (tmp_path / "wix_session_schema").mkdir()
    file = tmp_path / "wix_session_schema" / "version.json"
    file.write_text('{"version": 3}')
    with pytest.raises(WarehouseSchemaError, match=r"version 3, made by an older.*another folder"):
        await ParquetWarehouse(Folder(str(tmp_path))).prepare()
    assert file.read_text() == '{"version": 3}'


# -- requests --------------------------------------------------------------------------------------


@pytest.fixture
async def moto(make_bench):
    bench = make_bench("moto")
    await bench.ready()
    return bench


@pytest.mark.emulators
async def test_a_store_that_ignores_conditions_is_refused(moto, monkeypatch):
    """Also when another version of it has been used before."""
    monkeypatch.setattr(moto.running.gateway, "honours_conditions", False)
    with pytest.raises(WarehouseAccessError, match="without regard to the conditions"):
        await moto.open().prepare()


@pytest.mark.emulators
async def test_a_replace_takes_four_requests(moto):
    """Partition and job records are each read and written once; removals need one more."""
    gateway = moto.running.gateway
    await land(moto.open(), ["a"])
    for hours, ids, expected in ((1, "ab", ["GET", "PUT"]), (2, "bc", ["GET", "PUT", "PUT"])):
        record = await intended(moto.open(), a_record(hours=hours))
        gateway.reset()
        await land(moto.open(), ids, record=record)
        methods = [request.partition(" ")[0] for request in gateway.requests]
        assert methods == [*expected, "GET", "PUT"]


@pytest.mark.emulators
async def test_a_thousand_partitions_are_read_at_once(moto):
    """Receipts and job records of twelve days of other weeks are not read."""
    gateway, store = moto.running.gateway, moto.store
    await land(moto.open(), ["a"], on_day(1))
    ids, jobs = (
        files_of(moto.store, f"{moto.prefix}/wix_session_{kind}") for kind in ("ids", "jobs")
    )
    for number in range(1_000):
        day = on_day(1).day + timedelta(number)
        for path, content in {**ids, **jobs}.items():
            store.put(path.replace("2026-03-01", str(day)), content)
    for days, most in ((1_000, 1_100), (12, 20)):
        for read in (moto.open().receipts, moto.open().job_records):
            gateway.reset()
            window = Window(on_day(1).day, on_day(1).day + timedelta(days), ZONE)
            assert len(await read("site-1", window)) == days
            assert days < len(gateway.requests) <= most
            assert days == 12 or gateway.most_at_once >= 16

"""Many sessions are marked once each; an uncertain mark is repeated only on request."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import MarkAction
from prefect_wix.errors import WarehouseUnsupportedError
from prefect_wix.load.mark_recordings import MarkSummary, mark_sessions, plan_marks
from prefect_wix.load.mark_records import MarkRecords
from prefect_wix.sandbox import Fault, Rules, running
from prefect_wix.spool.id_spool import Spool
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.transactions import sql_warehouse
from tests.conftest import NOW, make_world
from tests.warehouses import ROOT

ENGINES = ["duckdb", "postgres"]
RECORDED, DELETED = MarkAction.RECORDED, MarkAction.DELETED


@pytest.fixture(params=ENGINES)
def bench(request, make_bench):
    return make_bench(request.param)


@pytest.fixture
def duck(make_bench):
    return make_bench("duckdb")


@contextmanager
def running_shop(**settings):
    with running(make_world(600), now=NOW, **settings) as shop:
        yield shop


def ids_of(shop, count):
    return [shop.world.ids[place] for place in range(count)]


async def nothing(summary):
    """Progress is ignored."""


class QuickClock:
    """A clock on which 20 seconds pass in one, so that retries and pauses are short."""

    def now(self):
        return 20 * time.monotonic()

    async def sleep(self, seconds):
        await asyncio.sleep(seconds / 20)


QUICK_CLOCK = QuickClock()


async def mark(bench, shop, ids, action=RECORDED, *, in_flight=4, retry_unknown=False, key=None):
    """Mark IDs as one flow run does: with a prepared warehouse, a spool and a client."""
    warehouse = await bench.ready()
    records = MarkRecords(warehouse, shop.site_id, action, retry_unknown, run_id="run")
    auth = ApiKeyAuth(key or shop.api_key, shop.site_id)
    with Spool() as spool:
        spool.add(list(ids))
        options = {"requests_per_minute": 100_000, "timeout_seconds": 5, "clock": QUICK_CLOCK}
        async with WixClient(auth, base_url=shop.url, retries=2, **options) as client:
            return await mark_sessions(
                client, records, spool, calls_in_flight=in_flight, on_progress=nothing
            )


async def recorded_states(bench):
    rows = await bench.sql(f"SELECT session_id, state FROM {bench.name('wix_session_marks')}")
    return dict(rows)


# -- each ID once ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("action", "calls"), [(RECORDED, 120), (DELETED, 2)])
async def test_every_id_is_marked_once(bench, action, calls):
    """One request per recorded session, one per hundred deleted recordings."""
    with running_shop() as shop:
        ids = ids_of(shop, 120)
        summary = await mark(bench, shop, ids, action)
        assert getattr(shop, action) == set(ids)
        assert shop.count(action) == calls
    assert summary == MarkSummary(shop.site_id, action, wanted=120, to_send=120, done=120)
    assert summary.complete
    assert await recorded_states(bench) == dict.fromkeys(ids, "done")


async def test_marked_sessions_are_skipped(bench):
    """A second run with more IDs sends only the new ones."""
    with running_shop() as shop:
        await mark(bench, shop, ids_of(shop, 30))
        shop.reset_counts()
        summary = await mark(bench, shop, ids_of(shop, 40))
        assert shop.count("recorded") == 10
    assert (summary.done_before, summary.done) == (30, 10)
    assert summary.complete


async def test_recorded_and_deleted_have_separate_records(bench):
    """A session marked as recorded can be marked as deleted later."""
    with running_shop() as shop:
        ids = ids_of(shop, 5)
        await mark(bench, shop, ids, RECORDED)
        summary = await mark(bench, shop, ids, DELETED)
        assert summary.done == 5
        assert shop.deleted == set(ids)


async def test_a_plan_sends_no_request(bench):
    """The IDs to send are counted from the records, and none is recorded."""
    with running_shop() as shop:
        await mark(bench, shop, ids_of(shop, 3), DELETED)
        shop.reset_counts()
        with Spool() as spool:
            spool.add(ids_of(shop, 10))
            plan = await plan_marks(MarkRecords(bench.open(), shop.site_id, DELETED), spool)
        assert shop.count() == 0
    assert (plan.wanted, plan.done_before, plan.to_send, plan.not_sent) == (10, 3, 7, 7)
    assert len(await recorded_states(bench)) == 3


async def test_only_ids_of_calls_in_flight_are_claimed(bench):
    """A cancelled run leaves as many IDs unknown as it had calls in flight."""
    await bench.ready()
    with running_shop(faults=[Fault("slow", on="recorded", seconds=20)]) as shop:
        task = asyncio.create_task(mark(bench, shop, ids_of(shop, 9), in_flight=3))
        while not await recorded_states(bench):
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert list((await recorded_states(bench)).values()) == ["unknown"] * 3


# -- failures --------------------------------------------------------------------------------------


async def test_an_id_whose_response_was_lost_is_sent_again_only_on_request(bench):
    """It stays unknown until a run has ``retry_unknown``."""
    with running_shop(faults=[Fault("dropped_after", on="recorded", after=2, times=1)]) as shop:
        ids = ids_of(shop, 5)
        first = await mark(bench, shop, ids, in_flight=1)
        assert (first.done, first.unknown, first.stopped) == (4, 1, None)
        assert shop.recorded == set(ids)
        shop.reset_counts()
        second = await mark(bench, shop, ids)
        assert shop.count() == 0
        assert (second.done_before, second.unknown_before, second.complete) == (4, 1, False)
        third = await mark(bench, shop, ids, retry_unknown=True)
        assert shop.count() == 1
    assert third.complete
    assert set((await recorded_states(bench)).values()) == {"done"}


async def test_a_409_confirms_a_mark_whose_response_was_lost(bench):
    """If Wix rejects a repeated mark, the ID is done and counted as marked before."""
    rules, faults = Rules(accepts_repeated_marks=False), [Fault("dropped_after", times=1)]
    with running_shop(rules=rules, faults=faults) as shop:
        ids = ids_of(shop, 3)
        assert (await mark(bench, shop, ids)).unknown == 1
        again = await mark(bench, shop, ids, retry_unknown=True)
    assert (again.done, again.already, again.complete) == (1, 1, True)
    [(reason,)] = await bench.sql(
        f"SELECT reason FROM {bench.name('wix_session_marks')} WHERE reason IS NOT NULL"
    )
    assert "409" in reason
    assert "request ID" in reason


async def test_one_refused_id_does_not_block_the_others_of_its_call(bench):
    """A refused call is split until the other 99 IDs are marked."""
    with running_shop(rules=Rules(accepts_unknown_marks=False)) as shop:
        ids = [*ids_of(shop, 99), "00000000-0000-4000-8000-000000000000"]
        summary = await mark(bench, shop, ids, DELETED)
        assert shop.deleted == set(ids[:-1])
        assert shop.count("deleted") <= 15
    assert (summary.done, summary.refused, summary.not_sent) == (99, 1, 0)
    assert (await recorded_states(bench))[ids[-1]] == "refused"


async def test_ids_deleted_before_do_not_block_the_others_of_their_call(bench):
    """A call that Wix rejects with 409 is split until all IDs are deleted."""
    with running_shop(rules=Rules(accepts_repeated_marks=False)) as shop:
        ids = ids_of(shop, 100)
        shop.deleted.update(ids[10:12])
        summary = await mark(bench, shop, ids, DELETED)
        assert shop.deleted == set(ids)
    assert (summary.done, summary.already, summary.complete) == (100, 2, True)


async def test_a_throttled_mark_is_retried(bench):
    """A 429 and a 503 have no effect, so the same call is repeated."""
    faults = [
        Fault("rate_limited", on="deleted", times=2, retry_after=1),
        Fault("server_error", on="deleted", status=503, times=1),
    ]
    with running_shop(faults=faults) as shop:
        ids = ids_of(shop, 250)
        summary = await mark(bench, shop, ids, DELETED)
        assert shop.deleted == set(ids)
        statuses = [record.status for record in shop.requests]
    assert summary.complete
    assert statuses.count(200) == 3


async def test_a_500_leaves_only_the_ids_of_its_call_unknown(bench):
    """A call that ended with 500 may have taken effect, so it is not repeated."""
    with running_shop(faults=[Fault("server_error", status=500, on="deleted", times=1)]) as shop:
        summary = await mark(bench, shop, ids_of(shop, 250), DELETED, in_flight=1)
        assert shop.count("deleted") == 3
    assert (summary.done, summary.unknown, summary.stopped) == (150, 100, None)


async def test_a_wrong_key_stops_the_run(bench):
    """At most one batch of calls is sent, and no ID is left unknown."""
    with running_shop() as shop:
        summary = await mark(bench, shop, ids_of(shop, 30), in_flight=4, key="wrong-key")
        assert shop.count("recorded") <= 4
    assert "Put a valid one in .env" in summary.stopped
    assert summary.refused + summary.not_sent == 30
    assert set((await recorded_states(bench)).values()) == {"refused"}
    with running_shop() as shop:
        assert (await mark(bench, shop, ids_of(shop, 30))).complete


async def test_an_outage_stops_the_run(duck):
    """After 8 failed calls in a row, the remaining IDs are left to the next run."""
    with running_shop(faults=[Fault("server_error", status=500)]) as shop:
        summary = await mark(duck, shop, ids_of(shop, 50))
        assert summary.unknown <= 8
        assert summary.stopped
        shop.faults = []
        again = await mark(duck, shop, ids_of(shop, 50))
    assert again.done == 50 - summary.unknown


async def test_one_throttled_403_does_not_stop_the_run(duck):
    """An empty 403 between accepted marks is throttling."""
    with running_shop(faults=[Fault("forbidden", on="recorded", after=8, times=1)]) as shop:
        summary = await mark(duck, shop, ids_of(shop, 20))
    assert (summary.done, summary.refused, summary.stopped) == (19, 1, None)


async def test_concurrent_runs_share_the_ids(bench):
    """Each ID is sent by one of two runs with the same IDs."""
    with running_shop(faults=[Fault("slow", on="recorded", seconds=0.02)]) as shop:
        ids = ids_of(shop, 60)
        await bench.ready()
        await asyncio.gather(*(mark(bench, shop, ids) for _ in range(2)))
        assert shop.recorded == set(ids)
        assert shop.count("recorded") == 60
    assert set((await recorded_states(bench)).values()) == {"done"}


async def test_a_killed_run_is_resumed(bench):
    """After kill -9, no ID is sent twice and only IDs of calls in flight are unknown."""
    with running_shop(faults=[Fault("slow", on="recorded", seconds=0.05)]) as shop:
        ids = ids_of(shop, 80)
        await bench.ready()
        process = start_marking(bench, shop, ids)
        while shop.count("recorded") < 20:
            assert process.poll() is None, process.communicate()
            await asyncio.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        summary = await mark(bench, shop, ids)
        sent = [record.body["sessionId"] for record in shop.requests]
        assert len(sent) == len(set(sent))
        assert summary.unknown_before <= 4
        assert summary.done_before + summary.done + summary.unknown_before == 80
        assert (await mark(bench, shop, ids, retry_unknown=True)).complete
        assert shop.recorded == set(ids)


def start_marking(bench, shop, ids):
    """Mark the IDs in another process."""
    config = {
        "warehouse": [bench.url, bench.schema],
        "shop": [shop.url, shop.api_key, shop.site_id],
        "ids": ids,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.engines.killed_marking", json.dumps(config)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("url", ["parquet:///folder", "snowflake://u:p@a/db", "bigquery://p/d"])
def test_a_warehouse_without_marks_is_rejected(url):
    """Mark records need DuckDB or PostgreSQL; the error names both."""
    with pytest.raises(WarehouseUnsupportedError, match="duckdb:// or postgresql://"):
        sql_warehouse(open_warehouse(url), what_for="Marks")

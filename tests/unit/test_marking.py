"""Marking many: each id once, whatever goes wrong, and never a repeat that nobody asked for."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import MarkAction
from prefect_wix.client.retry import RetryPolicy
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
QUICK = RetryPolicy(times=3, first_seconds=0.01)


@pytest.fixture(params=ENGINES)
def bench(request, make_bench):
    return make_bench(request.param)


@pytest.fixture
def duck(make_bench):
    return make_bench("duckdb")


@contextmanager
def a_shop(**settings):
    with running(make_world(600), now=NOW, **settings) as shop:
        yield shop


def ids_of(shop, count):
    return [shop.world.ids[place] for place in range(count)]


async def nobody_watches(summary):
    """Progress is for people."""


async def mark(bench, shop, ids, action=RECORDED, *, in_flight=4, retry_unknown=False, key=None):
    """One marking from the start: tables, ids, client; as a flow run does it."""
    warehouse = await bench.ready()
    ledger = MarkRecords(warehouse, shop.site_id, action, retry_unknown=retry_unknown, run_id="run")
    auth = ApiKeyAuth(key or shop.api_key, shop.site_id)
    with Spool() as spool:
        spool.add(list(ids))
        async with WixClient(
            auth, base_url=shop.url, requests_per_minute=100_000, retry=QUICK, timeout_seconds=5
        ) as client:
            return await mark_sessions(
                client, ledger, spool, calls_in_flight=in_flight, on_progress=nobody_watches
            )


async def on_record(bench):
    rows = await bench.sql(f"SELECT session_id, state FROM {bench.name('wix_session_marks')}")
    return dict(rows)


# -- what is marked, and how often -----------------------------------------------------------------


@pytest.mark.parametrize(("action", "calls"), [(RECORDED, 250), (DELETED, 3)])
async def test_every_id_is_marked_once(bench, action, calls):
    """One request for each recorded session, one for a hundred deleted recordings; all noted."""
    with a_shop() as shop:
        ids = ids_of(shop, 250)
        summary = await mark(bench, shop, ids, action)
        assert getattr(shop, action) == set(ids)
        assert shop.count(action) == calls
    assert summary == MarkSummary(shop.site_id, action, wanted=250, to_send=250, done=250)
    assert summary.complete
    assert await on_record(bench) == dict.fromkeys(ids, "done")


async def test_what_is_done_is_passed_over(bench):
    """A rerun with more ids asks for the new ones alone."""
    with a_shop() as shop:
        await mark(bench, shop, ids_of(shop, 30))
        shop.reset_counts()
        summary = await mark(bench, shop, ids_of(shop, 40))
        assert shop.count("recorded") == 10
    assert (summary.done_before, summary.done) == (30, 10)
    assert summary.complete


async def test_recorded_and_deleted_are_two_records(bench):
    """That a session was recorded does not keep its recording from being deleted later."""
    with a_shop() as shop:
        ids = ids_of(shop, 5)
        await mark(bench, shop, ids, RECORDED)
        summary = await mark(bench, shop, ids, DELETED)
        assert summary.done == 5
        assert shop.deleted == set(ids)


async def test_a_plan_asks_for_nothing(bench):
    """What would be sent is counted from the record alone, and nothing is noted."""
    with a_shop() as shop:
        await mark(bench, shop, ids_of(shop, 3), DELETED)
        shop.reset_counts()
        with Spool() as spool:
            spool.add(ids_of(shop, 10))
            plan = await plan_marks(MarkRecords(bench.open(), shop.site_id, DELETED), spool)
        assert shop.count() == 0
    assert (plan.wanted, plan.done_before, plan.to_send, plan.not_sent) == (10, 3, 7, 7)
    assert len(await on_record(bench)) == 3


async def test_no_more_are_claimed_than_may_be_in_flight(bench):
    """A marking that is cancelled leaves as many ids unknown as it had calls on their way."""
    await bench.ready()
    with a_shop(faults=[Fault("slow", on="recorded", seconds=20)]) as shop:
        marking = asyncio.create_task(mark(bench, shop, ids_of(shop, 9), in_flight=3))
        while not await on_record(bench):
            await asyncio.sleep(0.05)
        marking.cancel()
        await asyncio.gather(marking, return_exceptions=True)
    assert list((await on_record(bench)).values()) == ["unknown"] * 3


# -- what goes wrong -------------------------------------------------------------------------------


async def test_a_lost_reply_is_never_asked_again_unasked(bench):
    """An id that Wix may have marked stays unknown until the caller says to ask again."""
    with a_shop(faults=[Fault("dropped_after", on="recorded", after=2, times=1)]) as shop:
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
    assert set((await on_record(bench)).values()) == {"done"}


async def test_a_lost_mark_that_is_asked_again_may_be_there_already(bench):
    """Where Wix answers 409 to a second mark, the id is done, and counted as done already."""
    rules, faults = Rules(accepts_repeated_marks=False), [Fault("dropped_after", times=1)]
    with a_shop(rules=rules, faults=faults) as shop:
        ids = ids_of(shop, 3)
        assert (await mark(bench, shop, ids)).unknown == 1
        again = await mark(bench, shop, ids, retry_unknown=True)
    assert (again.done, again.already, again.complete) == (1, 1, True)
    [(reason,)] = await bench.sql(
        f"SELECT reason FROM {bench.name('wix_session_marks')} WHERE reason IS NOT NULL"
    )
    assert "409" in reason
    assert "request id" in reason


async def test_one_unknown_session_does_not_hold_back_its_hundred(bench):
    """Where Wix refuses a call for one id, the other ids of the call are marked all the same."""
    with a_shop(rules=Rules(accepts_unknown_marks=False)) as shop:
        ids = [*ids_of(shop, 99), "00000000-0000-4000-8000-000000000000"]
        summary = await mark(bench, shop, ids, DELETED)
        assert shop.deleted == set(ids[:-1])
        assert shop.count("deleted") <= 15
    assert (summary.done, summary.refused, summary.not_sent) == (99, 1, 0)
    assert (await on_record(bench))[ids[-1]] == "refused"


async def test_some_that_are_deleted_already_do_not_hold_back_the_others(bench):
    """A call in which Wix knows some as deleted ends with all of them deleted."""
    with a_shop(rules=Rules(accepts_repeated_marks=False)) as shop:
        ids = ids_of(shop, 100)
        shop.deleted.update(ids[10:12])
        summary = await mark(bench, shop, ids, DELETED)
        assert shop.deleted == set(ids)
    assert (summary.done, summary.already, summary.complete) == (100, 2, True)


async def test_a_throttled_mark_waits_and_is_made_once(bench):
    """A 429 and a 503 had no effect: the same call is made again, and every id once."""
    faults = [
        Fault("rate_limited", on="deleted", times=2, retry_after=1),
        Fault("server_error", on="deleted", status=503, times=1),
    ]
    with a_shop(faults=faults) as shop:
        ids = ids_of(shop, 250)
        summary = await mark(bench, shop, ids, DELETED)
        assert shop.deleted == set(ids)
        statuses = [record.status for record in shop.requests]
    assert summary.complete
    assert statuses.count(200) == 3


async def test_a_500_leaves_its_ids_unknown_and_the_others_done(bench):
    """After a 500 nobody can say, so it is not repeated; the next call is made."""
    with a_shop(faults=[Fault("server_error", status=500, on="deleted", times=1)]) as shop:
        summary = await mark(bench, shop, ids_of(shop, 250), DELETED, in_flight=1)
        assert shop.count("deleted") == 3
    assert (summary.done, summary.unknown, summary.stopped) == (150, 100, None)


async def test_a_wrong_key_stops_at_once(bench):
    """One batch of calls finds out; nothing further is sent, and nothing is left unknown."""
    with a_shop() as shop:
        summary = await mark(bench, shop, ids_of(shop, 100), in_flight=4, key="wrong-key")
        assert shop.count("recorded") <= 4
    assert "Check the API key" in summary.stopped
    assert summary.refused + summary.not_sent == 100
    assert set((await on_record(bench)).values()) == {"refused"}
    with a_shop() as shop:
        assert (await mark(bench, shop, ids_of(shop, 100))).complete


async def test_a_wix_in_trouble_does_not_make_everything_unknown(duck):
    """When one call after the other ends without a word on its ids, the rest is left for later."""
    with a_shop(faults=[Fault("server_error", status=500)]) as shop:
        summary = await mark(duck, shop, ids_of(shop, 200))
        assert summary.unknown <= 8
        assert summary.stopped
        shop.faults = []
        again = await mark(duck, shop, ids_of(shop, 200))
    assert again.done == 200 - summary.unknown


async def test_one_throttled_403_does_not_stop_it(duck):
    """An empty 403 in the midst of marks that Wix takes is Wix throttling."""
    with a_shop(faults=[Fault("forbidden", on="recorded", after=8, times=1)]) as shop:
        summary = await mark(duck, shop, ids_of(shop, 20))
    assert (summary.done, summary.refused, summary.stopped) == (19, 1, None)


async def test_two_markings_at_once_share_the_ids(bench):
    """Of two runs with the same ids each id is sent by one."""
    with a_shop(faults=[Fault("slow", on="recorded", seconds=0.02)]) as shop:
        ids = ids_of(shop, 60)
        await bench.ready()
        await asyncio.gather(*(mark(bench, shop, ids) for _ in range(2)))
        assert shop.recorded == set(ids)
        assert shop.count("recorded") == 60
    assert set((await on_record(bench)).values()) == {"done"}


async def test_a_killed_marking_goes_on_where_it_was(bench):
    """After kill -9 no id is sent twice, and only what was on its way is left unknown."""
    with a_shop(faults=[Fault("slow", on="recorded", seconds=0.05)]) as shop:
        ids = ids_of(shop, 80)
        await bench.ready()
        process = another_marking(bench, shop, ids)
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


def another_marking(bench, shop, ids):
    """The same in a process of its own, which is to die."""
    told = {
        "warehouse": [bench.url, bench.schema],
        "shop": [shop.url, shop.api_key, shop.site_id],
        "ids": ids,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unit.killed_marking", json.dumps(told)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("url", ["parquet:///folder", "adbc+postgresql://u:p@host/db"])
def test_a_warehouse_that_keeps_no_marks_says_so(url):
    """Marks need a warehouse that runs SQL of ours; the sentence names those that do."""
    with pytest.raises(WarehouseUnsupportedError, match="duckdb:// or postgresql://"):
        sql_warehouse(open_warehouse(url), what_for="Marks")

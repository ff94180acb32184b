"""From partitions to rows, without Prefect: the ledger tells the truth, whatever goes wrong."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.retry import RetryPolicy
from prefect_wix.errors import WarehouseAccessError, WarehouseBusyError
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.load.loader import load_partitions
from prefect_wix.load.partition_load import LoadOptions
from prefect_wix.planning.partitions import JobState, Partition
from prefect_wix.planning.windows import Window
from prefect_wix.sandbox import Fault
from prefect_wix.warehouse.factory import open_warehouse

ZONE = "Asia/Jerusalem"
DAYS = [date(2024, 3, day) for day in range(1, 7)]
RANGE = Window(DAYS[0], DAYS[-1] + timedelta(1), ZONE)
QUICK = PollPolicy(timeout_seconds=5, first_wait_seconds=0.01, longest_wait_seconds=0.1)


@pytest.fixture
async def warehouse(tmp_path):
    warehouse = open_warehouse(f"duckdb:///{tmp_path}/sessions.duckdb")
    await warehouse.prepare()
    return warehouse


@pytest.fixture
async def client(shop):
    auth = ApiKeyAuth(shop.api_key, shop.site_id)
    retry = RetryPolicy(times=1, first_seconds=0.01)
    async with WixClient(
        auth, base_url=shop.url, requests_per_minute=100_000, retry=retry
    ) as client:
        yield client


async def load(client, warehouse, *, days=DAYS, slots=1, poll_policy=QUICK, run_id=None):
    partitions = [Partition(client.site_id, day, "device_type=ALL", ZONE) for day in days]
    options = LoadOptions(datetime.now(UTC), slots, poll_policy, run_id)
    return await load_partitions(client, warehouse, partitions, options, on_progress=nothing)


async def nothing(outcome):
    """Nobody watches."""


async def ledger(warehouse, client):
    return await warehouse.job_records(client.site_id, RANGE)


async def test_each_partition_has_one_ask_that_landed(client, warehouse):
    """The ledger says of each job what it was asked for and what it brought."""
    outcomes = await load(client, warehouse, run_id="run-7")
    records = await ledger(warehouse, client)
    assert [(one.state, one.sessions, one.run_id) for one in records] == [
        (JobState.LANDED, outcome.sessions, "run-7") for outcome in outcomes
    ]
    assert {record.job_id for record in records} == {outcome.job_id for outcome in outcomes}


async def test_every_lost_submit_is_counted(shop, client, warehouse):
    """Two replies lost in a row: two jobs may run unused, and the run says two."""
    shop.faults = [Fault("dropped_after", on="list")]
    (outcome,) = await load(client, warehouse, days=DAYS[:1])
    assert outcome.state is JobState.FAILED
    assert len(shop.jobs) == outcome.possible_orphans == 2
    assert [record.state for record in await ledger(warehouse, client)] == 2 * [JobState.ORPHANED]


async def test_a_lost_submit_that_is_made_up_for_is_counted_too(shop, client, warehouse):
    """One reply lost, the second submit lands: one possible orphan."""
    shop.faults = [Fault("dropped_after", on="list", times=1)]
    (outcome,) = await load(client, warehouse, days=DAYS[:1])
    assert (outcome.state, outcome.possible_orphans) == (JobState.LANDED, 1)
    states = [record.state for record in await ledger(warehouse, client)]
    assert states == [JobState.ORPHANED, JobState.LANDED]


async def test_a_day_that_wix_fails_twice_is_left_to_the_next_load(shop, client, warehouse, caplog):
    """It fails and is named, the other day lands, and the next load submits a new job for it."""
    shop.faults = [Fault("job_error", times=2)]
    failed, landed = await load(client, warehouse, days=DAYS[:2])
    assert (failed.state, landed.state) == (JobState.FAILED, JobState.LANDED)
    assert f"{failed.partition} failed: " in caplog.text
    assert len(shop.submits) == 3
    (again,) = await load(client, warehouse, days=DAYS[:1])
    assert (again.state, again.adopted) == (JobState.LANDED, False)
    assert len(shop.submits) == 4


async def test_a_day_that_never_adds_up_is_left_to_the_next_load(shop, client, warehouse):
    """Its job is of no use, so the next load submits a new one."""
    shop.faults = [Fault("wrong_total")]
    (failed,) = await load(client, warehouse, days=DAYS[:1])
    (record,) = await ledger(warehouse, client)
    assert (failed.state, record.state) == (JobState.FAILED, JobState.FAILED)
    shop.faults = []
    (again,) = await load(client, warehouse, days=DAYS[:1])
    assert (again.state, again.adopted) == (JobState.LANDED, False)


async def test_a_job_that_is_read_too_slowly_is_left_to_the_next_load(shop, client, warehouse):
    """Wix has finished it, so the next load reads that very job."""
    client.page_limit = 10
    shop.faults = [Fault("slow", on="result", after=1, times=1, seconds=2)]
    hasty = replace(QUICK, timeout_seconds=1)
    failed, landed = await load(client, warehouse, days=DAYS[:2], poll_policy=hasty)
    assert (failed.state, landed.state) == (JobState.FAILED, JobState.LANDED)
    (again,) = await load(client, warehouse, days=DAYS[:1])
    assert (again.state, again.adopted) == (JobState.LANDED, True)
    assert len(shop.submits) == 2


async def test_an_outage_is_waited_for(shop, client, warehouse):
    """Polls that fail for a while fail no partition while its deadline is far."""
    shop.faults = [Fault("server_error", on="result", status=503, times=12)]
    outcomes = await load(client, warehouse, slots=6)
    assert {one.state for one in outcomes} == {JobState.LANDED}


async def test_two_runs_that_land_one_job_leave_what_it_changed(shop, client, warehouse):
    """The second run finds nothing new; the ledger still says what the job brought."""
    shop.faults = [Fault("job_never_finishes", times=1)]
    short = PollPolicy(timeout_seconds=0.2, first_wait_seconds=0.01)
    (timed_out,) = await load(client, warehouse, days=DAYS[:1], poll_policy=short)
    assert timed_out.state is JobState.FAILED
    # The job goes on for as long as both need to take it up.
    shop.faults = [Fault("unknown_status", status="IN_PROGRESS", polls=8)]
    outcomes = await asyncio.gather(
        load(client, warehouse, days=DAYS[:1]), load(client, warehouse, days=DAYS[:1])
    )
    states = sorted(outcome.state for (outcome,) in outcomes)
    assert states == [JobState.LANDED, JobState.UNCHANGED]
    assert all(outcome.adopted for (outcome,) in outcomes)
    (record,) = await ledger(warehouse, client)
    assert (record.state, record.added) == (JobState.LANDED, record.sessions)
    assert len(shop.submits) == 1


async def test_a_warehouse_that_can_not_be_written_ends_the_load(client, warehouse, monkeypatch):
    """No job is started for partitions whose answer could not be kept."""
    publish = warehouse.publish

    async def full_disk_after_two(answer):
        if answer.record.partition.day > DAYS[1]:
            raise WarehouseAccessError("the disk is full")
        return await publish(answer)

    monkeypatch.setattr(warehouse, "publish", full_disk_after_two)
    outcomes = await load(client, warehouse)
    assert [one.state for one in outcomes] == 2 * [JobState.LANDED] + 4 * [JobState.FAILED]
    assert {one.reason for one in outcomes[2:]} == {"the disk is full"}
    # One was landing, and the next one's job had begun meanwhile.
    assert len(await ledger(warehouse, client)) <= 4


@pytest.fixture
def happened(client, warehouse, monkeypatch):
    """What a load with a slow ledger does, in order."""
    happened = []
    save_record, claim, submit = warehouse.save_record, warehouse.claim, client.list_sessions_async

    async def slow_record(record):
        await asyncio.sleep(0.02)
        await save_record(record)
        happened.append("recorded")

    async def told_claim(record, **limits):
        happened.append("claims")
        return await claim(record, **limits)

    async def told_submit(query):
        happened.append("submits")
        return await submit(query)

    monkeypatch.setattr(warehouse, "save_record", slow_record)
    monkeypatch.setattr(warehouse, "claim", told_claim)
    monkeypatch.setattr(client, "list_sessions_async", told_submit)
    return happened


async def test_a_job_is_on_record_before_the_next_is_submitted(client, warehouse, happened):
    """So a kill leaves one at most whose fate nobody knows."""
    await load(client, warehouse, slots=6)
    assert happened == 6 * ["claims", "submits", "recorded"]


async def test_a_job_that_can_not_be_recorded_is_the_last(client, warehouse, happened, monkeypatch):
    async def full_disk(record):
        await asyncio.sleep(0.02)
        raise WarehouseAccessError("the disk is full")

    monkeypatch.setattr(warehouse, "save_record", full_disk)
    outcomes = await load(client, warehouse, slots=6)
    assert {one.reason for one in outcomes} == {"the disk is full"}
    assert happened.count("submits") == 1


async def test_a_job_is_on_record_also_when_its_load_is_cancelled(client, warehouse, monkeypatch):
    """The cancellation comes with the reply to the submit."""
    submit = client.list_sessions_async

    async def submit_and_cancel(query):
        job_id = await submit(query)
        task.cancel()
        return job_id

    monkeypatch.setattr(client, "list_sessions_async", submit_and_cancel)
    task = asyncio.create_task(load(client, warehouse, days=DAYS[:1]))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.state for record in await ledger(warehouse, client)] == [JobState.SUBMITTED]


async def test_a_busy_warehouse_fails_one_partition(client, warehouse, monkeypatch):
    """Who comes next may have more luck; the job of the one that failed is kept for a rerun."""
    publish = warehouse.publish

    async def busy_once(answer):
        if answer.record.partition.day == DAYS[0]:
            raise WarehouseBusyError("somebody has it open")
        return await publish(answer)

    monkeypatch.setattr(warehouse, "publish", busy_once)
    outcomes = await load(client, warehouse)
    assert [one.state for one in outcomes] == [JobState.FAILED] + 5 * [JobState.LANDED]
    monkeypatch.undo()
    (again,) = await load(client, warehouse, days=DAYS[:1])
    assert (again.state, again.adopted) == (JobState.LANDED, True)


async def test_a_job_that_is_cancelled_over_is_taken_up(shop, client, warehouse):
    """A load that is cancelled leaves its jobs on record, and the next one waits for them."""
    shop.faults = [Fault("job_never_finishes")]
    task = asyncio.create_task(load(client, warehouse, slots=6))
    while len({one.job_id for one in shop.requests if one.endpoint == "result"}) < 6:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    shop.faults = []
    outcomes = await load(client, warehouse, slots=6)
    assert all(one.adopted for one in outcomes)
    assert {one.state for one in outcomes} == {JobState.LANDED}
    assert len(shop.submits) == 6

"""Partitions are loaded and job records stay correct after every kind of failure."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.errors import WarehouseAccessError, WarehouseBusyError
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.load.loader import load_partitions
from prefect_wix.load.partition_load import LoadOptions
from prefect_wix.planning.partitions import JobState, Partition
from prefect_wix.planning.windows import Window
from prefect_wix.sandbox import Fault, running
from prefect_wix.warehouse.factory import open_warehouse
from tests.conftest import NOW, make_world

ZONE = "Asia/Jerusalem"
DAYS = [date(2024, 3, day) for day in range(1, 7)]
RANGE = Window(DAYS[0], DAYS[-1] + timedelta(1), ZONE)
QUICK = PollPolicy(timeout_seconds=5, first_wait_seconds=0.01, longest_wait_seconds=0.1)


@pytest.fixture
async def warehouse(tmp_path):
    warehouse = open_warehouse(f"duckdb:///{tmp_path}/sessions.duckdb")
    await warehouse.prepare()
    return warehouse


def client_of(shop):
    auth = ApiKeyAuth(shop.api_key, shop.site_id)
    return WixClient(auth, base_url=shop.url, requests_per_minute=100_000, retries=1)


@pytest.fixture
async def client(shop):
    async with client_of(shop) as client:
        yield client


async def load(client, warehouse, *, days=DAYS, slots=1, poll_policy=QUICK, run_id=None):
    partitions = [Partition(client.site_id, day, "device_type=ALL", ZONE) for day in days]
    options = LoadOptions(datetime.now(UTC), slots, poll_policy, run_id)
    return await load_partitions(client, warehouse, partitions, options, on_progress=nothing)


async def nothing(result):
    """Progress is ignored."""


async def job_records(warehouse, client):
    return await warehouse.job_records(client.site_id, RANGE)


async def test_each_partition_has_one_landed_job_record(client, warehouse):
    """The record has the job, its sessions and the run."""
    results = await load(client, warehouse, run_id="run-7")
    records = await job_records(warehouse, client)
    assert [(one.state, one.sessions, one.run_id) for one in records] == [
        (JobState.LANDED, result.sessions, "run-7") for result in results
    ]
    assert {record.job_id for record in records} == {result.job_id for result in results}


async def test_every_lost_submit_is_counted(shop, client, warehouse):
    """Two lost responses in a row are two possible orphans."""
    shop.faults = [Fault("dropped_after", on="list")]
    (result,) = await load(client, warehouse, days=DAYS[:1])
    assert result.state is JobState.FAILED
    assert len(shop.jobs) == result.possible_orphans == 2
    assert [record.state for record in await job_records(warehouse, client)] == 2 * [
        JobState.ORPHANED
    ]


async def test_a_lost_submit_that_is_repeated_is_counted(shop, client, warehouse):
    """One lost response before a successful submit is one possible orphan."""
    shop.faults = [Fault("dropped_after", on="list", times=1)]
    (result,) = await load(client, warehouse, days=DAYS[:1])
    assert (result.state, result.possible_orphans) == (JobState.LANDED, 1)
    states = [record.state for record in await job_records(warehouse, client)]
    assert states == [JobState.ORPHANED, JobState.LANDED]


async def test_a_job_that_fails_twice_is_left_to_the_next_load(shop, client, warehouse, caplog):
    """It is logged as failed, the other day lands, and the next load submits a new job."""
    shop.faults = [Fault("job_error", times=2)]
    failed, landed = await load(client, warehouse, days=DAYS[:2])
    assert (failed.state, landed.state) == (JobState.FAILED, JobState.LANDED)
    assert f"{failed.partition} failed: " in caplog.text
    assert len(shop.submits) == 3
    (again,) = await load(client, warehouse, days=DAYS[:1])
    assert (again.state, again.adopted) == (JobState.LANDED, False)
    assert len(shop.submits) == 4


async def test_an_incomplete_listing_is_left_to_the_next_load(shop, client, warehouse):
    """Its job gives no result, so the next load submits a new one."""
    shop.faults = [Fault("wrong_total")]
    (failed,) = await load(client, warehouse, days=DAYS[:1])
    (record,) = await job_records(warehouse, client)
    assert (failed.state, record.state) == (JobState.FAILED, JobState.FAILED)
    shop.faults = []
    (again,) = await load(client, warehouse, days=DAYS[:1])
    assert (again.state, again.adopted) == (JobState.LANDED, False)


async def test_a_job_that_is_read_too_slowly_is_adopted_by_the_next_load(shop, client, warehouse):
    """Wix has finished it, so the next load reads the same job."""
    client.page_limit = 10
    shop.faults = [Fault("slow", on="result", after=1, times=1, seconds=2)]
    short = replace(QUICK, timeout_seconds=1)
    failed, landed = await load(client, warehouse, days=DAYS[:2], poll_policy=short)
    assert (failed.state, landed.state) == (JobState.FAILED, JobState.LANDED)
    (again,) = await load(client, warehouse, days=DAYS[:1])
    assert (again.state, again.adopted) == (JobState.LANDED, True)
    assert len(shop.submits) == 2


async def test_two_runs_that_publish_one_job_keep_its_counts(shop, client, warehouse):
    """The second run finds no change; the record keeps the counts of the first."""
    shop.faults = [Fault("job_never_finishes", times=1)]
    short = PollPolicy(timeout_seconds=0.2, first_wait_seconds=0.01)
    (timed_out,) = await load(client, warehouse, days=DAYS[:1], poll_policy=short)
    assert timed_out.state is JobState.FAILED
    # The job runs until both have adopted it.
    shop.faults = [Fault("unknown_status", status="IN_PROGRESS", polls=8)]
    results = await asyncio.gather(
        load(client, warehouse, days=DAYS[:1]), load(client, warehouse, days=DAYS[:1])
    )
    states = sorted(result.state for (result,) in results)
    assert states == [JobState.LANDED, JobState.UNCHANGED]
    assert all(result.adopted for (result,) in results)
    (record,) = await job_records(warehouse, client)
    assert (record.state, record.added) == (JobState.LANDED, record.sessions)
    assert len(shop.submits) == 1


async def test_a_job_id_that_can_not_be_saved_stops_the_load(shop, client, warehouse, monkeypatch):
    """Each further submit would leave another job at Wix that no record names."""
    save = warehouse.save_record

    async def full_disk(record):
        if record.job_id is not None:
            raise WarehouseAccessError("the disk is full", affects_all=False)
        await save(record)

    monkeypatch.setattr(warehouse, "save_record", full_disk)
    results = await load(client, warehouse, slots=4)
    assert {one.state for one in results} == {JobState.FAILED}
    assert len(shop.submits) == 1


async def test_a_warehouse_that_can_not_be_written_stops_the_load(client, warehouse, monkeypatch):
    """No job is submitted for partitions whose result could not be published."""
    publish = warehouse.publish

    async def full_disk_after_two(listing):
        if listing.record.partition.day > DAYS[1]:
            raise WarehouseAccessError("the disk is full")
        return await publish(listing)

    monkeypatch.setattr(warehouse, "publish", full_disk_after_two)
    results = await load(client, warehouse)
    assert [one.state for one in results] == 2 * [JobState.LANDED] + 4 * [JobState.FAILED]
    assert {one.reason for one in results[2:]} == {"the disk is full"}
    # While the third was published, the job of the fourth was submitted.
    assert len(await job_records(warehouse, client)) <= 4


@pytest.fixture
def calls(client, warehouse, monkeypatch):
    """The calls of a load whose record writes are slow, in order."""
    calls = []
    save_record, claim, submit = warehouse.save_record, warehouse.claim, client.list_sessions_async

    async def slow_record(record):
        await asyncio.sleep(0.02)
        await save_record(record)
        calls.append("save_record")

    async def logged_claim(record, **limits):
        calls.append("claim")
        return await claim(record, **limits)

    async def logged_submit(query, **options):
        calls.append("submit")
        return await submit(query, **options)

    monkeypatch.setattr(warehouse, "save_record", slow_record)
    monkeypatch.setattr(warehouse, "claim", logged_claim)
    monkeypatch.setattr(client, "list_sessions_async", logged_submit)
    return calls


async def test_a_job_is_recorded_before_the_next_submit(client, warehouse, calls):
    """So a kill leaves at most one orphan."""
    await load(client, warehouse, slots=6)
    assert calls == 6 * ["claim", "submit", "save_record"]


async def test_no_job_follows_one_that_can_not_be_recorded(client, warehouse, calls, monkeypatch):
    async def full_disk(record):
        await asyncio.sleep(0.02)
        raise WarehouseAccessError("the disk is full")

    monkeypatch.setattr(warehouse, "save_record", full_disk)
    results = await load(client, warehouse, slots=6)
    assert {one.reason for one in results} == {"the disk is full"}
    assert calls.count("submit") == 1


async def test_a_job_is_recorded_when_its_load_is_cancelled(client, warehouse, monkeypatch):
    """The load is cancelled together with the response to the submit."""
    submit = client.list_sessions_async

    async def submit_and_cancel(query, **options):
        job_id = await submit(query, **options)
        task.cancel()
        return job_id

    monkeypatch.setattr(client, "list_sessions_async", submit_and_cancel)
    task = asyncio.create_task(load(client, warehouse, days=DAYS[:1]))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.state for record in await job_records(warehouse, client)] == [JobState.SUBMITTED]


async def test_a_busy_warehouse_fails_one_partition(client, warehouse, monkeypatch):
    """The other partitions land, and the next load adopts the job of the failed one."""
    publish = warehouse.publish

    async def busy_once(listing):
        if listing.record.partition.day == DAYS[0]:
            raise WarehouseBusyError("another process has it open")
        return await publish(listing)

    monkeypatch.setattr(warehouse, "publish", busy_once)
    results = await load(client, warehouse)
    assert [one.state for one in results] == [JobState.FAILED] + 5 * [JobState.LANDED]
    monkeypatch.undo()
    (again,) = await load(client, warehouse, days=DAYS[:1])
    assert (again.state, again.adopted) == (JobState.LANDED, True)


async def test_the_jobs_of_a_cancelled_load_are_adopted(shop, client, warehouse):
    """The records of a cancelled load let the next one wait for its jobs."""
    shop.faults = [Fault("job_never_finishes")]
    task = asyncio.create_task(load(client, warehouse, slots=6))
    while len({one.job_id for one in shop.requests if one.endpoint == "result"}) < 6:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    shop.faults = []
    results = await load(client, warehouse, slots=6)
    assert all(one.adopted for one in results)
    assert {one.state for one in results} == {JobState.LANDED}
    assert len(shop.submits) == 6


async def test_a_job_is_adopted_only_at_the_base_url_where_it_runs(shop, client, warehouse):
    """A load at another base URL submits its own job, and leaves the record of the other."""
    shop.faults = [Fault("job_never_finishes")]
    short = PollPolicy(timeout_seconds=0.2, first_wait_seconds=0.01)
    (timed_out,) = await load(client, warehouse, days=DAYS[:1], poll_policy=short)
    assert timed_out.state is JobState.FAILED
    with running(make_world(500), now=NOW) as other:
        async with client_of(other) as client_of_other:
            (landed,) = await load(client_of_other, warehouse, days=DAYS[:1])
        assert (landed.state, landed.adopted) == (JobState.LANDED, False)
        assert len(other.submits) == 1
        assert landed.sessions == len(other.answer(landed.partition.query.to_wire()))
    records = await job_records(warehouse, client)
    assert [(one.state, one.base_url) for one in records] == [
        (JobState.SUBMITTED, shop.url),
        (JobState.LANDED, other.url),
    ]
    shop.faults = []
    (again,) = await load(client, warehouse, days=DAYS[:1])
    assert again.adopted

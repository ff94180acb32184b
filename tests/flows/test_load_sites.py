"""The flow load-sites, in this process or in runs of a deployment."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from uuid import uuid4

import duckdb
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.concurrency.asyncio import rate_limit
from prefect.flow_engine import run_flow
from prefect.runner import Runner
from prefect.states import Completed, Failed, Scheduled

from prefect_wix import WixAccountCredentials
from prefect_wix.blocks.shared_limit import (
    add_missing_limit,
    limit_for,
    limit_name,
    save_limit,
)
from prefect_wix.client.models import Site
from prefect_wix.errors import SitesError, WixError
from prefect_wix.flows.load_sites import SiteLoad, load_sites
from prefect_wix.planning.plan import Refresh
from prefect_wix.sandbox import Fault, World, running
from prefect_wix.tasks import sites
from prefect_wix.tasks.schedule import scheduled_time
from prefect_wix.tasks.sites import RESULT_KEY
from tests.conftest import NOW, make_world

LOAD = SiteLoad(start_date="2024-03-01", end_date="2024-03-03", segments=["device_type=ALL"])
LOAD_DAYS = "load 2024-03-01 to 2024-03-03 of"
BOTH = ["site-2", "site-3"]
BODY = {
    "customTimePeriod": {"startDate": "2024-03-01", "endDate": "2024-03-03"},
    "deviceType": {"type": "ALL"},
    "timezone": "Asia/Jerusalem",
}
RATE_LIMIT = 100_000
BROKEN = "broken"
"""A site that Wix does not know, so that every request for it fails."""


def other_world(seed):
    return World.generate(seed, sessions=200, days=40, end=NOW.date(), timezone="Asia/Jerusalem")


@pytest.fixture
def shop(early_first_poll):
    """An account of four sites, each with its own sessions."""
    worlds = {f"site-{n}": other_world(n) for n in (2, 3, 4)}
    with running(make_world(200), now=NOW, sites=worlds) as sandbox:
        yield sandbox


@pytest.fixture
def account(shop):
    """The account's key as a block."""
    # With the default, all tests of this server would share a limit of 200 requests per site.
    return WixAccountCredentials(
        api_key=shop.api_key,
        account_id=shop.account_id,
        base_url=shop.url,
        requests_per_minute=RATE_LIMIT,
    )


def landed(database):
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.execute("SELECT site_id, session_id FROM wix_session_ids").fetchall()
    assert len(rows) == len(set(rows))
    return {site: {row[1] for row in rows if row[0] == site} for site, _ in rows}


def truth(shop, *sites):
    return {site: shop.answer(BODY, site_id=site) for site in sites}


async def test_every_site_of_the_account_lands_once(shop, account, warehouse, database):
    """Without a deployment the sites are loaded in this process, each under its own ID."""
    runs = await load_sites(account, warehouse, LOAD)
    assert landed(database) == truth(shop, *shop.worlds)
    for run in runs:
        (ids,) = truth(shop, run.site.id).values()
        assert run.reason == f"2 partitions: 2 landed; {len(ids)} sessions (+{len(ids)}, -0)"
    assert {run.site.name for run in runs} == {"Shop 1", "Shop 2", "Shop 3", "Shop 4"}
    assert {run.state for run in runs} == {"Completed"}


async def test_one_failing_site_does_not_stop_the_others(
    shop, account, warehouse, database, artifacts
):
    """The other sites land, the error names the failed one, and the table has its reason."""
    with pytest.raises(SitesError, match=r"1 of 3 sites .*: broken\. See") as caught:
        await load_sites(account, warehouse, LOAD, ["site-2", BROKEN, "site-3", "site-2"])
    assert list(caught.value.failures) == [BROKEN]
    assert landed(database) == truth(shop, "site-2", "site-3")
    table = (await artifacts(RESULT_KEY))[0]
    first, *others = json.loads(table.data)
    assert (first["site"], first["state"]) == (BROKEN, "Failed")
    assert "Wix returned 403" in first["result"]
    assert all(row["result"].startswith("2 partitions: 2 landed; ") for row in others)
    assert "3 sites: 2 loaded, 1 failed" in table.description


async def test_a_partly_failed_site_reports_what_landed(shop, account, warehouse, artifacts):
    """Its row has the reason, and counts the failed partitions."""
    shop.faults = [Fault("forbidden", on="list", after=1, times=1)]
    with pytest.raises(SitesError) as caught:
        await load_sites(account, warehouse, LOAD, ["site-2"])
    (row,) = json.loads((await artifacts(RESULT_KEY))[0].data)
    assert row["result"] == caught.value.failures["site-2"]
    assert "1 of 2 partitions failed" in row["result"]


async def test_a_site_that_is_too_big_is_loaded_partly(
    shop, account, warehouse, database, artifacts
):
    """Its run completes, and its row counts what is left for the next run."""
    await load_sites(account, warehouse, LOAD, ["site-2"])
    with duckdb.connect(str(database)) as connection:
        connection.execute("UPDATE wix_session_receipts SET sessions = 3_000_000")
    again = LOAD.model_copy(update={"refresh": Refresh.ALL})
    shop.reset_counts()
    (run,) = await load_sites(account, warehouse, again, ["site-2"])
    (row,) = json.loads((await artifacts(RESULT_KEY))[0].data)
    left = "Partial load: 1 partition of 2024-03-02 to 2024-03-02 left for the next run"
    assert (run.state, run.completed, run.reason) == ("Completed", True, row["result"])
    assert run.reason.endswith(left)
    assert len(shop.submits) == 1


async def test_an_empty_list_of_sites_is_rejected(account, warehouse):
    """An empty list does not mean all sites."""
    with pytest.raises(Exception, match="at least 1 item"):
        await load_sites(account, warehouse, LOAD, [])


async def test_sites_in_flight_limits_the_concurrent_sites(shop, account, warehouse):
    """With one site in flight, the submits of the sites are not interleaved."""
    await load_sites(account, warehouse, LOAD, sites_in_flight=1)
    submitted = [job.site_id for job in shop.jobs.values()]
    assert submitted == sorted(submitted, key=list(shop.worlds).index)
    assert len(submitted) == 8


async def test_each_site_gets_a_limit_and_an_existing_one_is_kept(account, warehouse):
    """A missing shared limit is created, and an existing one is not changed."""
    await save_limit("site-3", 60)
    await load_sites(account, warehouse, LOAD, ["site-2", "site-3"])
    async with get_client() as client:
        new = await client.read_global_concurrency_limit_by_name(limit_name("site-2"))
        old = await client.read_global_concurrency_limit_by_name(limit_name("site-3"))
    assert (new.limit, old.limit) == (limit_for("x", RATE_LIMIT).limit, limit_for("x", 60).limit)
    assert new.slot_decay_per_second > old.slot_decay_per_second > 0


async def test_concurrent_runs_can_create_the_same_limit():
    """All but the first find the limit created."""
    await asyncio.gather(*(add_missing_limit("site-at-once", 200) for _ in range(4)))
    await rate_limit(limit_name("site-at-once"), strict=True)


async def test_the_accounts_key_is_not_stored_in_clear_text(shop, stored, prefect_server):
    """The server's database and files do not contain the key."""
    await load_sites(*stored, LOAD)
    contents = await prefect_server.contents()
    assert b"load-sites" in contents
    assert shop.api_key.encode() not in contents


# With a deployment; tests/e2e shows that workers execute the runs.


@pytest.fixture
async def stored(account, warehouse):
    """The blocks, saved on the server."""
    await account.save("many", overwrite=True)
    await warehouse.save("many", overwrite=True)
    return account, warehouse


@pytest.fixture
async def deployment():
    """The ID and the name of a deployment without a worker."""
    name = str(uuid4())
    new = await load_sites.ato_deployment(name)
    return await Runner().aadd_deployment(new), f"load-sites/{name}"


async def children(deployment_id):
    of_deployment = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]))
    async with get_client() as client:
        return await client.read_flow_runs(flow_run_filter=of_deployment)


async def test_an_unknown_deployment_is_rejected_before_any_run(stored):
    """The error names the deployment and the command that creates it."""
    with pytest.raises(WixError, match=r"no deployment 'load-sites/missing'; .* Create it with"):
        await load_sites(*stored, LOAD, ["site-2"], deployment="load-sites/missing")


async def test_an_unsaved_block_is_rejected(account, warehouse, deployment):
    """Its secret would have to be a parameter of the run."""
    with pytest.raises(WixError, match="WixAccountCredentials block is not stored"):
        await load_sites(account, warehouse, LOAD, ["site-2"], deployment=deployment[1])
    assert await children(deployment[0]) == []


async def test_a_run_gets_references_and_no_secret(shop, stored, deployment):
    """The parameters of a run refer to the blocks and hold no key, and it starts no other run."""
    with pytest.raises(SitesError, match="did not end within the timeout"):
        await load_sites(**parameters_without_wait(stored, deployment))
    (child,) = await children(deployment[0])
    assert child.name == f"{LOAD_DAYS} 2 sites"
    assert child.parameters["account"] == {
        "$ref": {"block_document_id": str(stored[0]._block_document_id)}
    }
    assert (child.parameters["sites"], child.parameters["deployment"]) == (BOTH, None)
    assert shop.api_key not in child.model_dump_json()


async def attempt(parameters, run=None):
    """Run the parent for the first time, or retry it; returns its run and its failed sites."""
    async with get_client() as client:
        if run is None:
            run = await client.create_flow_run(load_sites, state=Scheduled())
        else:
            await client.set_flow_run_state(run.id, Scheduled(), force=True)
        run = await client.read_flow_run(run.id)
    try:
        await run_flow(load_sites, flow_run=run, parameters=parameters)
    except SitesError as error:
        return run, error.failures
    return run, {}


async def test_a_failing_site_does_not_fail_the_others_of_its_run(stored, deployment, monkeypatch):
    """The parent has the result of each site, and a retry starts a run for the failed one only."""
    monkeypatch.setattr(sites, "POLL_SECONDS", 0.1)
    parameters = parameters_without_wait(stored, deployment) | {"sites": [BROKEN, *BOTH]}

    async def execute():
        while not (found := await children(deployment[0])):
            await asyncio.sleep(0.1)
        await run_flow(load_sites, flow_run=found[0], return_type="state")

    (run, failures), _ = await asyncio.gather(
        attempt(parameters | {"run_timeout_seconds": 60}), execute()
    )
    assert list(failures) == [BROKEN]
    assert "Wix returned 403" in failures[BROKEN]
    _, failures = await attempt(parameters, run)
    assert list(failures) == [BROKEN]
    of_children = [child.parameters["sites"] for child in await children(deployment[0])]
    assert sorted(of_children) == [[BROKEN], [BROKEN, *BOTH]]


async def test_a_retried_parent_adopts_its_children(stored, deployment):
    """A retry finds the runs that the first attempt started and starts no others."""
    parameters = parameters_without_wait(stored, deployment) | {"sites_per_run": 1}
    run, failures = await attempt(parameters)
    first = {child.id for child in await children(deployment[0])}
    assert (await attempt(parameters, run))[1] == failures
    assert len(first) == 2
    assert {child.id for child in await children(deployment[0])} == first


async def test_a_retry_starts_new_runs_for_failed_ones_only(stored, deployment):
    """A run that failed is followed by one new run; a run that completed by none."""
    parameters = parameters_without_wait(stored, deployment) | {"sites_per_run": 1}
    run, _ = await attempt(parameters)
    ends = {f"{LOAD_DAYS} site-2": Completed(), f"{LOAD_DAYS} site-3": Failed(message="failed")}
    async with get_client() as client:
        for child in await children(deployment[0]):
            await client.set_flow_run_state(child.id, ends[child.name], force=True)
    _, failures = await attempt(parameters, run)
    assert list(failures) == ["site-3"]
    names = [child.name for child in await children(deployment[0])]
    assert sorted(names) == [f"{LOAD_DAYS} site-2", f"{LOAD_DAYS} site-3", f"{LOAD_DAYS} site-3"]


def parameters_without_wait(stored, deployment):
    """The parameters of a run that does not wait for its children."""
    account, warehouse = stored
    return {
        "account": account,
        "warehouse": warehouse,
        "load": LOAD,
        "sites": BOTH,
        "deployment": deployment[1],
        "run_timeout_seconds": 0.1,
    }


def test_a_table_without_a_reason_is_read():
    """A table lacks a column that is empty in every row, such as that of errors without a text."""
    run = FlowRun(flow_id=uuid4(), state=Failed())
    read = sites._read_site_run(Site(id="a"), run, {"site": "a", "state": "Failed"})
    assert (read.state, read.reason, read.completed) == ("Failed", "", False)


async def test_the_time_outside_of_a_run_is_now():
    before = datetime.now(UTC)
    first = await scheduled_time()
    assert before <= first < await scheduled_time()

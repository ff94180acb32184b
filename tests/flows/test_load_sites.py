"""Many sites: each loaded by a run of its own, and one that fails holds no other."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import duckdb
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.concurrency.asyncio import rate_limit
from prefect.flow_engine import run_flow
from prefect.runner import Runner
from prefect.states import Completed, Failed, Scheduled

from flows.load_site import SiteLoad, load_site
from flows.load_sites import RESULT_KEY, load_sites
from prefect_wix import WixAccountCredentials
from prefect_wix.blocks.shared_limit import (
    add_missing_limit,
    limit_name,
    rate_limit_for,
    save_limit,
)
from prefect_wix.errors import SitesError, WixError
from prefect_wix.sandbox import Fault, World, running
from prefect_wix.tasks.sites import COUNTS_KEY
from tests.conftest import NOW, make_world

LOAD = SiteLoad(start_date="2024-03-01", end_date="2024-03-03", segments=["device_type=ALL"])
BODY = {
    "customTimePeriod": {"startDate": "2024-03-01", "endDate": "2024-03-03"},
    "deviceType": {"type": "ALL"},
    "timezone": "Asia/Jerusalem",
}
BUDGET = 100_000
BROKEN = "broken"
"""A site that Wix does not know, so that every request for it is refused."""


def other_world(seed):
    return World.generate(seed, sessions=200, days=40, end=NOW.date(), timezone="Asia/Jerusalem")


@pytest.fixture
def shop():
    """An account of four sites, each with sessions of its own."""
    worlds = {f"site-{n}": other_world(n) for n in (2, 3, 4)}
    with running(make_world(200), now=NOW, sites=worlds) as sandbox:
        yield sandbox


@pytest.fixture
def account(shop):
    """The account's key, as a block."""
    # Else its sites would have a limit of 200 for all tests of this server.
    return WixAccountCredentials(
        api_key=shop.api_key,
        account_id=shop.account_id,
        base_url=shop.url,
        requests_per_minute=BUDGET,
    )


def landed(database):
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.execute("SELECT site_id, session_id FROM wix_session_ids").fetchall()
    assert len(rows) == len(set(rows))
    return {site: {row[1] for row in rows if row[0] == site} for site, _ in rows}


def truth(shop, *sites):
    return {site: shop.answer(BODY, site_id=site) for site in sites}


async def test_every_site_of_the_account_lands_once(shop, account, warehouse, database):
    """Without a deployment the sites are loaded here, each under its own id."""
    runs = await load_sites(account, warehouse, LOAD)
    assert landed(database) == truth(shop, *shop.worlds)
    assert {run.site.id: run.sessions for run in runs} == {
        site: len(ids) for site, ids in truth(shop, *shop.worlds).items()
    }
    assert {run.site.name for run in runs} == {"Shop 1", "Shop 2", "Shop 3", "Shop 4"}
    assert {run.state for run in runs} == {"Completed"}


async def test_one_failing_site_does_not_hold_the_others(
    shop, account, warehouse, database, artifacts
):
    """The others land; the error names the site, and the table says why."""
    with pytest.raises(SitesError, match=r"1 of 3 sites .*: broken\. See") as failure:
        await load_sites(account, warehouse, LOAD, ["site-2", BROKEN, "site-3", "site-2"])
    assert list(failure.value.failures) == [BROKEN]
    assert landed(database) == truth(shop, "site-2", "site-3")
    table = (await artifacts(RESULT_KEY))[0]
    first, *others = json.loads(table.data)
    assert (first["site"], first["state"], first["sessions"]) == (BROKEN, "Failed", 0)
    assert "Wix answered 403" in first["reason"]
    assert [row["reason"] for row in others] == ["", ""]
    assert "3 sites: 2 loaded, 1 failed" in table.description


async def test_a_site_that_fails_in_part_tells_what_landed(shop, account, warehouse, artifacts):
    """Its partitions that failed are counted, and so are the sessions of those that landed."""
    shop.faults = [Fault("forbidden", on="list", after=1, times=1)]
    with pytest.raises(SitesError) as failure:
        await load_sites(account, warehouse, LOAD, ["site-2"])
    (row,) = json.loads((await artifacts(RESULT_KEY))[0].data)
    (counts,) = json.loads((await artifacts(COUNTS_KEY))[0].data)
    assert (row["failed partitions"], counts["failed"], counts["partitions"]) == (1, 1, 2)
    assert 0 < row["sessions"] < len(truth(shop, "site-2")["site-2"])
    assert "1 of 2 partitions did not land" in failure.value.failures["site-2"]


async def test_no_sites_is_refused(account, warehouse):
    """An empty list is a mistake, and not every site."""
    with pytest.raises(Exception, match="at least 1 item"):
        await load_sites(account, warehouse, LOAD, [])


async def test_no_more_sites_at_once_than_asked_for(shop, account, warehouse):
    """With one at a time, the sites' submits do not mix."""
    await load_sites(account, warehouse, LOAD, sites_in_flight=1)
    asked = [job.site_id for job in shop.jobs.values()]
    assert asked == sorted(asked, key=list(shop.worlds).index)
    assert len(asked) == 8


async def test_each_site_gets_its_limit_and_keeps_one_it_has(account, warehouse):
    """The shared budget is made where it is missing, and left as a person has set it."""
    await save_limit("site-3", 60)
    await load_sites(account, warehouse, LOAD, ["site-2", "site-3"])
    async with get_client() as client:
        new = await client.read_global_concurrency_limit_by_name(limit_name("site-2"))
        old = await client.read_global_concurrency_limit_by_name(limit_name("site-3"))
    assert (new.limit, old.limit) == (rate_limit_for(BUDGET).limit, rate_limit_for(60).limit)
    assert new.slot_decay_per_second > old.slot_decay_per_second > 0


async def test_two_runs_may_make_a_limit_at_once():
    """Whoever comes second finds it made."""
    await asyncio.gather(*(add_missing_limit("site-at-once", 200) for _ in range(4)))
    await rate_limit(limit_name("site-at-once"), strict=True)


async def test_the_accounts_key_is_left_nowhere(shop, stored, prefect_server):
    """Neither the sites' runs nor what they are made of keep the key in clear."""
    await load_sites(*stored, LOAD)
    contents = await prefect_server.contents()
    assert b"load-sites" in contents
    assert shop.api_key.encode() not in contents


# By deployment; that workers take the runs up is shown in tests/e2e.


@pytest.fixture
async def stored(account, warehouse):
    """The blocks as a worker finds them."""
    await account.save("many", overwrite=True)
    await warehouse.save("many", overwrite=True)
    return account, warehouse


@pytest.fixture
async def deployment():
    """A deployment that nobody serves: its id and its name."""
    name = str(uuid4())
    made = await load_site.ato_deployment(name)
    return await Runner().aadd_deployment(made), f"load-site/{name}"


async def children(deployment_id):
    wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]))
    async with get_client() as client:
        return await client.read_flow_runs(flow_run_filter=wanted)


async def test_a_deployment_that_is_not_there_is_said_at_once(stored):
    """No site is begun for nothing."""
    with pytest.raises(WixError, match=r"no deployment 'load-site/nowhere'\. Make it with"):
        await load_sites(*stored, LOAD, ["site-2"], "load-site/nowhere")


async def test_a_block_that_is_not_stored_is_refused(account, warehouse, deployment):
    """Its secret would have to go into the parameters of a run."""
    with pytest.raises(WixError, match="WixAccountCredentials block is not stored"):
        await load_sites(account, warehouse, LOAD, ["site-2"], deployment[1])
    assert await children(deployment[0]) == []


async def test_a_run_is_handed_references_and_no_secret(shop, stored, deployment):
    """What Prefect keeps of a site's run names the blocks, and holds no key."""
    deployment_id, name = deployment
    with pytest.raises(SitesError, match="had not ended when the wait for it was over"):
        await load_sites(*stored, LOAD, ["site-2"], name, site_timeout_seconds=0.1)
    (child,) = await children(deployment_id)
    assert child.name == "load site-2"
    assert set(child.parameters) == {"account", "warehouse", "site_id", "load"}
    assert child.parameters["account"] == {
        "$ref": {"block_document_id": str(stored[0]._block_document_id)}
    }
    assert shop.api_key not in child.model_dump_json()


async def test_a_retried_parent_adopts_its_children(stored, deployment):
    """The same run again finds the runs that it began, and begins none beside them."""
    deployment_id, name = deployment
    parameters = given(stored, ["site-2", "site-3"], name)
    async with get_client() as client:
        run = await client.create_flow_run(load_sites, state=Scheduled())
        with pytest.raises(SitesError):
            await run_flow(load_sites, flow_run=run, parameters=parameters)
        first = {child.id for child in await children(deployment_id)}
        await client.set_flow_run_state(run.id, Scheduled(), force=True)
        run = await client.read_flow_run(run.id)
    with pytest.raises(SitesError):
        await run_flow(load_sites, flow_run=run, parameters=parameters)
    assert len(first) == 2
    assert {child.id for child in await children(deployment_id)} == first


async def test_what_failed_is_begun_again_by_a_retry(stored, deployment):
    """A site whose run failed gets one more run; one whose run completed gets none."""
    deployment_id, name = deployment
    parameters = given(stored, ["site-2", "site-3"], name)
    async with get_client() as client:
        run = await client.create_flow_run(load_sites, state=Scheduled())
        with pytest.raises(SitesError):
            await run_flow(load_sites, flow_run=run, parameters=parameters)
        ends = {"load site-2": Completed(), "load site-3": Failed(message="no luck")}
        for child in await children(deployment_id):
            await client.set_flow_run_state(child.id, ends[child.name], force=True)
        await client.set_flow_run_state(run.id, Scheduled(), force=True)
        run = await client.read_flow_run(run.id)
    with pytest.raises(SitesError, match=r"1 of 2 sites .* site-3"):
        await run_flow(load_sites, flow_run=run, parameters=parameters)
    names = [child.name for child in await children(deployment_id)]
    assert sorted(names) == ["load site-2", "load site-3", "load site-3"]


def given(stored, sites, deployment):
    """The parameters of a run that does not wait for its children."""
    account, warehouse = stored
    return {
        "account": account,
        "warehouse": warehouse,
        "load": LOAD,
        "sites": sites,
        "deployment": deployment,
        "site_timeout_seconds": 0.1,
    }

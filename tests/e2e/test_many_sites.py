"""Every site of an account, each by a run of its own, on two workers of which one is killed."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployments.serve import AFTER_LOAD
from prefect_wix.planning.segments import DEVICES
from prefect_wix.planning.windows import ONE_DAY
from prefect_wix.sandbox import Fault
from tests.e2e.deployed import SITES, children, kill_machine
from tests.processes import wait_until

pytestmark = [
    pytest.mark.xdist_group("deployed"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SITES_IN_FLIGHT = 6
JOBS_THAT_FINISH = 30


def test_every_site_lands_once_though_a_worker_is_killed(deployed):
    """kill -9 in the middle: the other sites land meanwhile, and a retry takes up those that died.

    The jobs that the dead runs had are adopted, so each partition is asked for once in all.
    """
    day = datetime.now(UTC).date() - timedelta(20)
    partitions = deployed.partitions([day], deployed.shop.worlds)
    leave_the_profiles(deployed)
    deployed.shop.reset_counts()
    deployed.shop.faults = [Fault("job_never_finishes", after=JOBS_THAT_FINISH)]
    parent = deployed.start(
        "load-sites/daily",
        load={"start_date": str(day), "end_date": str(day + ONE_DAY)},
        sites_in_flight=SITES_IN_FLIGHT,
    )
    wait_until(lambda: is_held(deployed, day), seconds=180, what="the middle of the sites")
    deployed.is_whole(partitions)

    victim = worker_without(deployed, parent)
    died = len(children(deployed.workers[victim].pid))
    kill_machine(deployed.workers[victim])
    deployed.shop.faults = []
    state = deployed.shield(parent, seconds=240)
    assert (state["type"], died > 0) == ("FAILED", True)
    assert f"{died} of {SITES} sites were not loaded whole" in state["message"]
    assert Counter(run["state_type"] for run in deployed.runs("load-site")) == {
        "COMPLETED": SITES - died,
        "CRASHED": died,
    }

    deployed.command("prefect", "flow-run", "retry", parent)
    wait_until(lambda: deployed.run(parent)["run_count"] == 2, seconds=60, what="the retry")
    assert deployed.shield(parent, seconds=120)["type"] == "COMPLETED"
    deployed.check(partitions)
    assert len(deployed.shop.submits) == len(partitions)
    assert_told_of_each(deployed, partitions)
    deployed.start_worker(victim)


def leave_the_profiles(deployed):
    """Do as the documentation of many sites says where no profiles are wanted."""
    for automation in deployed.record("POST", "automations/filter"):
        if automation["name"] == AFTER_LOAD.name:
            deployed.record("PATCH", f"automations/{automation['id']}", enabled=False)


def is_held(deployed, day):
    """Whether nothing moves: what may finish has landed, and all that is begun has its jobs."""
    asked = Counter(job.site_id for job in deployed.shop.jobs.values() if job.days[0] == day)
    landed = deployed.landed([day])
    unfinished = [site for site in asked if landed[site] < len(DEVICES)]
    return (
        landed.total() == JOBS_THAT_FINISH
        and len(unfinished) == SITES_IN_FLIGHT
        and {*asked.values()} == {len(DEVICES)}
    )


def worker_without(deployed, run_id):
    """The worker whose machine does not run this run."""
    told = f"PREFECT__FLOW_RUN_ID={run_id}".encode()

    def runs_it(worker):
        return any(
            told in Path(f"/proc/{pid}/environ").read_bytes() for pid in children(worker.pid)
        )

    (found,) = [name for name, worker in deployed.workers.items() if not runs_it(worker)]
    return found


def assert_told_of_each(deployed, partitions):
    """A row for each site, with its count; and nowhere the key."""
    wanted = {"key": {"any_": ["wix-sites-load"]}}
    found = deployed.record("POST", "artifacts/filter", artifacts=wanted)
    table = max(found, key=lambda artifact: artifact["created"])
    rows = {row["site"]: row for row in json.loads(table["data"])}
    counts = Counter()
    for partition in partitions:
        counts[partition.site_id] += len(deployed.truth(partition))
    assert {row["state"] for row in rows.values()} == {"Completed"}
    # The retry of a site whose run died counts what was left to it.
    died = {
        run["parameters"]["site_id"]
        for run in deployed.runs("load-site")
        if run["state_type"] == "CRASHED"
    }
    told = {site: row["sessions"] for site, row in rows.items()}
    assert told.keys() == counts.keys()
    assert all(told[site] == counts[site] for site in counts.keys() - died)
    assert all(told[site] <= counts[site] for site in died)
    seen = [found, deployed.runs("load-site"), deployed.runs("load-sites")]
    assert deployed.shop.api_key not in json.dumps(seen)

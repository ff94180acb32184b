"""Deployments started by schedule, event and form, cancelled runs, and notifications of failures.

On a real server with two workers; see `deployed`. Each test loads different days.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from prefect.automations import DoNothing

from prefect_wix.deployments.automations import failed_twice, nothing_landed
from prefect_wix.deployments.definitions import HOURLY
from prefect_wix.planning.windows import ONE_DAY
from prefect_wix.sandbox import Fault
from tests.e2e.deployed import ZONE
from tests.processes import wait_until

pytestmark = [
    pytest.mark.xdist_group("deployed"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FAILED_TWICE, NOTHING_LANDED = failed_twice(DoNothing()), nothing_landed(DoNothing())


def days_ago(first, last):
    """Local days in the shop's time zone, from ``first`` to ``last`` days before today."""
    today = datetime.now(UTC).date()
    return [today - timedelta(ago) for ago in range(first, last, -1)]


def dates(days):
    return {"start_date": str(days[0]), "end_date": str(days[-1] + ONE_DAY)}


def test_a_schedule_that_was_changed_is_kept(deployed):
    """Deployed again, a schedule of the UI stays; an option replaces it."""
    deployed.command("prefect-wix", "deploy", "--cron", "30 5 * * *")
    deployed.command("prefect-wix", "deploy")
    assert schedules(deployed) == {("30 5 * * *", "Etc/UTC"), (HOURLY, "Etc/UTC")}
    deployed.command("prefect-wix", "deploy", "--timezone", ZONE)
    assert schedules(deployed) == {("0 4 * * *", ZONE), (HOURLY, ZONE)}


def schedules(deployed):
    deployments = deployed.call("POST", "deployments/filter")
    found = [one["schedule"] for each in deployments for one in each["schedules"]]
    return {(one["cron"], one["timezone"]) for one in found}


def test_the_schedule_starts_a_load_and_its_event_a_profile(deployed):
    """A worker executes the scheduled load, and its event starts the profile of its days."""
    daily = deployed.deployment("load-sessions/daily-load")
    soon = datetime.now(UTC) + timedelta(seconds=5)
    every_day = {"interval": 86_400, "anchor_date": soon.isoformat(), "timezone": ZONE}
    schedules = [{"active": True, "schedule": every_day}]
    deployed.call("PATCH", f"deployments/{daily['id']}", schedules=schedules)
    done = {"state": {"type": {"any_": ["COMPLETED"]}}}
    wait_until(
        lambda: deployed.runs("profile-sessions", flow_runs=done), seconds=90, what="the profile"
    )
    (load,) = deployed.runs("load-sessions", flow_runs=done)
    (profile,) = deployed.runs("profile-sessions", flow_runs=done)
    assert load["auto_scheduled"]
    assert profile["parameters"]["site_id"] == deployed.shop.site_id
    start, end = (
        date.fromisoformat(profile["parameters"][f"{one}_date"]) for one in ("start", "end")
    )
    week = [start + timedelta(n) for n in range((end - start).days)]
    assert len(week) == 7
    deployed.check(deployed.partitions(week))
    assert deployed.profiled_days() == week


def test_an_ad_hoc_run_lists_the_query_of_the_form(deployed):
    """The run is started over the API with the form's parameters; the file holds its IDs."""
    output = deployed.folder / "mobile.csv"
    query = dates(days_ago(9, 6)) | {"device_type": "MOBILE", "timezone": ZONE}
    run = deployed.start("list-sessions/ad-hoc-list", query=query, output=str(output))
    assert deployed.wait_for_end(run)["type"] == "COMPLETED"
    wire = {
        "customTimePeriod": {"startDate": query["start_date"], "endDate": query["end_date"]},
        "deviceType": {"type": "MOBILE"},
        "timezone": ZONE,
    }
    assert {*output.read_text().splitlines()[1:]} == deployed.shop.answer(wire)


def test_a_cancelled_run_stops_and_the_next_one_adopts_its_jobs(deployed):
    """It stops within seconds, landed partitions are complete, and no job is submitted twice."""
    days = days_ago(38, 34)
    partitions = deployed.partitions(days)
    deployed.shop.faults = [Fault("job_never_finishes", after=4)]
    deployed.shop.reset_counts()
    run = deployed.start("load-sessions/backfill", **dates(days))
    wait_until(
        lambda: (
            len(deployed.shop.submits) == len(partitions) and deployed.landed(days).total() == 4
        ),
        seconds=60,
        what="the middle of the load",
    )
    deployed.set_state(run, type="CANCELLING")
    state = deployed.wait_for_end(run, seconds=20)
    deployed.shop.faults = []
    assert state["type"] == "CANCELLED"
    deployed.check_atomic(partitions)
    run = deployed.start("load-sessions/backfill", **dates(days))
    assert deployed.wait_for_end(run)["type"] == "COMPLETED"
    deployed.check(partitions)
    assert len(deployed.shop.submits) == len(partitions)


def test_failures_send_notifications(deployed):
    """A deployment that failed twice and a site without landed sessions are reported."""
    query = {"period": "YESTERDAY", "device_type": "ALL"}
    for _ in range(2):
        deployed.start("list-sessions/ad-hoc-list", query=query, output="/proc/nowhere/ids.csv")
    expected = {f"{one.name}: {one.description}" for one in (FAILED_TWICE, NOTHING_LANDED)}
    wait_until(
        lambda: expected == {text.splitlines()[0] for text in deployed.notifications},
        seconds=60,
        what="the notifications",
    )

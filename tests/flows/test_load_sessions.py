"""The flow load-sessions: what it loads, what it skips, and what it reports."""

from __future__ import annotations

import asyncio
import json
import re
import time
from datetime import UTC, date, datetime, timedelta

import duckdb
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import Scheduled

from prefect_wix import SessionsQuery
from prefect_wix.deployments.definitions import DEPLOYMENTS
from prefect_wix.errors import LoadError, LoadLimitError, WixError
from prefect_wix.flows.load_sessions import LATE_ARRIVALS_KEY, PLAN_KEY, RESULT_KEY, load_sessions
from prefect_wix.planning.partitions import JobState
from prefect_wix.sandbox import Fault, Rules, World, running
from prefect_wix.tasks.events import LANDED_EVENT
from prefect_wix.warehouse.duckdb import DuckDBWarehouse
from tests.conftest import NOW, make_world

START, END = date(2024, 3, 1), date(2024, 3, 4)
MATERIALIZED = "prefect.asset.materialization.succeeded"
DEVICES = ("DESKTOP", "MOBILE", "TABLET")
(DAILY_LOAD,) = (one for one in DEPLOYMENTS if one.name == "daily-load")


def landed(database):
    """All rows of the table as (day, segment) -> IDs, including duplicates."""
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.execute(
            "SELECT session_date, segment, session_id FROM wix_session_ids"
        ).fetchall()
    partitions = {}
    for day, segment, session_id in rows:
        partitions.setdefault((day, segment), []).append(session_id)
    return partitions


def truth(shop, start=START, end=END, devices=DEVICES):
    """The IDs that Wix has as (day, segment) -> IDs, without empty partitions."""
    partitions = {}
    for n in range((end - start).days):
        day = start + timedelta(n)
        for device in devices:
            query = SessionsQuery(
                start_date=day,
                end_date=day + timedelta(1),
                device_type=device,
                timezone="Asia/Jerusalem",
            )
            partitions[day, f"device_type={device}"] = shop.answer(query.to_wire())
    return {key: ids for key, ids in partitions.items() if ids}


def assert_exact(database, expected):
    found = landed(database)
    assert {key: sorted(ids) for key, ids in found.items()} == {
        key: sorted(ids) for key, ids in expected.items()
    }


async def test_every_day_and_device_lands_exactly(shop, credentials, warehouse, database):
    """Each partition holds exactly the IDs that Wix has, once each."""
    results = await load_sessions(credentials, warehouse, START, END)
    assert {one.state for one in results} == {JobState.LANDED}
    assert len(shop.submits) == 9
    assert_exact(database, truth(shop))


async def test_each_job_takes_two_requests(shop, credentials, warehouse):
    """Jobs that are finished at the first poll take two requests; the time zone takes one."""
    await load_sessions(credentials, warehouse, START, END)
    assert shop.count() == 9 * 2 + 1


async def test_a_rerun_loads_only_missing_partitions(shop, credentials, warehouse, database):
    """Settled days are not loaded again; of a longer range only the new days are loaded."""
    await load_sessions(credentials, warehouse, START, END)
    shop.reset_counts()
    assert await load_sessions(credentials, warehouse, START, END) == []
    assert shop.submits == []
    later = END + timedelta(1)
    await load_sessions(credentials, warehouse, START, later)
    assert len(shop.submits) == 3
    assert_exact(database, truth(shop, end=later))


async def test_a_reload_without_changes_writes_nothing(shop, credentials, warehouse, database):
    """With refresh=all every partition is loaded again and found unchanged."""
    await load_sessions(credentials, warehouse, START, END)
    results = await load_sessions(credentials, warehouse, START, END, refresh="all")
    assert {one.state for one in results} == {JobState.UNCHANGED}
    assert_exact(database, truth(shop))


async def test_reloads_measure_late_arrivals(credentials, warehouse, artifacts):
    """The artifact shows the changes of a reload of yesterday, and advice on the lookback."""
    with running(World.generate(sessions=300, days=3)) as today:
        block = credentials.model_copy(update={"base_url": today.url})
        for _ in range(2):
            await load_sessions(block, warehouse, days=1)
    curve = (await artifacts(LATE_ARRIVALS_KEY))[0]
    assert json.loads(curve.data) == [
        {"age_days": "1", "reloads": "3", "changed": "0", "added": "0", "removed": "0"}
    ]
    assert "Too few reloads to recommend lookback_days (oldest: 1 day)" in curve.description


async def test_one_partition_that_fails_does_not_stop_the_others(
    shop, credentials, warehouse, database
):
    """The other partitions land, the error names the failed one, and the next run loads it."""
    shop.faults = [Fault("job_error", times=2)]
    with pytest.raises(LoadError, match="partitions failed; failed partitions keep") as caught:
        await load_sessions(credentials, warehouse, START, END, jobs_in_flight=1)
    (failed,) = caught.value.failures
    assert failed == "2024-03-01 device_type=DESKTOP"
    assert len(landed(database)) == len(truth(shop)) - 1
    shop.faults = []
    shop.reset_counts()
    await load_sessions(credentials, warehouse, START, END)
    assert len(shop.submits) == 1
    assert_exact(database, truth(shop))


async def test_a_job_that_timed_out_is_adopted_by_the_next_run(
    shop, credentials, warehouse, database
):
    """The partition fails at the deadline, and the next run waits for the same job."""
    shop.faults = [Fault("job_never_finishes", times=1)]
    with pytest.raises(LoadError, match="1 of 9 partitions"):
        await load_sessions(credentials, warehouse, START, END, timeout_seconds=5)
    shop.faults = []
    shop.reset_counts()
    results = await load_sessions(credentials, warehouse, START, END)
    assert shop.submits == []
    assert [one.adopted for one in results] == [True]
    assert_exact(database, truth(shop))


async def test_the_jobs_of_a_run_that_prefect_times_out_are_adopted(
    shop, credentials, warehouse, database
):
    """After a timeout, landed partitions stay landed and the next run adopts the running jobs."""
    shop.faults = [Fault("job_never_finishes", times=2)]
    with_timeout = load_sessions.with_options(timeout_seconds=4)
    state = await with_timeout(credentials, warehouse, START, END, return_state=True)
    assert state.name == "TimedOut"
    shop.faults = []
    results = await load_sessions(credentials, warehouse, START, END)
    assert [one.adopted for one in results] == [True, True]
    assert len(shop.submits) == 9
    assert_exact(database, truth(shop))


async def test_a_run_that_prefect_times_out_finishes_its_transaction(
    shop, credentials, warehouse, database, monkeypatch
):
    """The transaction ends before the run does, and the next run finds its partitions landed."""
    began, ended = [], []

    def transact_slowly(self, begin, config, spool=None):
        def publish_slowly(tables, at):
            began.append(begin)
            time.sleep(max(0, start + 10 - time.monotonic()))
            return begin(tables, at)

        if spool is None:
            return transact(self, begin, config)
        result = transact(self, publish_slowly, config, spool)
        ended.append(begin)
        return result

    transact = DuckDBWarehouse._transact
    monkeypatch.setattr(DuckDBWarehouse, "_transact", transact_slowly)
    with_timeout, start = load_sessions.with_options(timeout_seconds=6), time.monotonic()
    state = await with_timeout(credentials, warehouse, START, END, return_state=True)
    assert state.name == "TimedOut"
    assert began, "the machine was too slow"
    assert set(ended) == set(began)
    monkeypatch.setattr(DuckDBWarehouse, "_transact", transact)
    results = await load_sessions(credentials, warehouse, START, END)
    assert len(results) == 9 - len(ended)
    assert len(shop.submits) == 9
    assert_exact(database, truth(shop))


@pytest.mark.parametrize("seconds", [0.3, 0.6, 0.9])
async def test_a_load_completes_after_a_timeout_in_its_first_second(
    shop, credentials, warehouse, database, seconds, monkeypatch
):
    """A timeout while the run plans or submits leaves at most one job to be submitted again."""
    monkeypatch.undo()  # the first poll is after 1 s
    with_timeout = load_sessions.with_options(timeout_seconds=seconds)
    state = await with_timeout(credentials, warehouse, START, END, return_state=True)
    assert state.name == "TimedOut"
    await load_sessions(credentials, warehouse, START, END)
    assert len(shop.submits) <= 9 + 1
    assert_exact(database, truth(shop))


async def test_an_invalid_key_stops_the_load_at_once(shop, credentials, warehouse):
    """A key that Wix rejects is not tried for every partition; the error names the key."""
    wrong = credentials.model_copy(update={"api_key": type(credentials.api_key)("wrong-key")})
    with pytest.raises(LoadError, match=r"Wix rejected the API key .* landed \(9 failed\)"):
        await load_sessions(wrong, warehouse, START, END, timezone="Asia/Jerusalem")
    assert shop.count() <= 8


async def test_partitions_that_landed_before_a_stop_emit_the_event(shop, credentials, warehouse):
    """The event of a stopped load has the landed days, and the error counts the failed ones."""
    started = datetime.now(UTC)
    shop.faults = [Fault("expired_token", on="list", after=4)]
    with pytest.raises(LoadError, match="5 of 9 partitions"):
        await load_sessions(credentials, warehouse, START, END, jobs_in_flight=1)
    payload = (await read_events(started, {LANDED_EVENT}))[LANDED_EVENT]["payload"]
    assert (payload["partitions"], payload["failed_partitions"]) == (4, 5)
    assert payload["changed_days"] == ["2024-03-01", "2024-03-02"]
    assert payload["segments"] == sorted({one.partition(" ")[2] for one in payload["versions"]})
    assert list(payload["versions"].values()) == 4 * [1]


async def test_one_throttled_403_fails_one_partition(shop, credentials, warehouse, database):
    """An empty 403 after accepted jobs is throttling and does not stop the load."""
    shop.faults = [Fault("forbidden", on="list", after=3, times=1)]
    with pytest.raises(LoadError, match="1 of 9 partitions"):
        await load_sessions(credentials, warehouse, START, END)
    shop.faults = []
    await load_sessions(credentials, warehouse, START, END)
    assert_exact(database, truth(shop))


async def test_a_daily_load_fills_the_gap_of_a_failed_one(shop, credentials, warehouse, database):
    """A daily load of one day also loads the day before it if that day's load failed."""
    mornings = [datetime(2024, 3, day, 4, tzinfo=UTC) for day in (5, 6, 7)]
    await run_daily_load(mornings[0], credentials, warehouse)
    shop.faults = [Fault("job_error", times=6)]
    with pytest.raises(LoadError):
        await run_daily_load(mornings[1], credentials, warehouse)
    shop.faults = []
    await run_daily_load(mornings[2], credentials, warehouse)
    assert_exact(database, truth(shop, start=date(2024, 3, 4), end=date(2024, 3, 7)))


async def run_daily_load(scheduled, credentials, warehouse):
    """Run the daily load as scheduled for a time."""
    parameters = {"credentials": credentials, "warehouse": warehouse, "days": 1}
    async with get_client() as client:
        run = await client.create_flow_run(load_sessions, state=Scheduled(scheduled_time=scheduled))
    return await run_flow(load_sessions, flow_run=run, parameters=parameters)


async def test_a_subflow_uses_the_scheduled_time_of_its_parent(shop, credentials, warehouse):
    """A late run inside another flow loads the day before the parent's scheduled time."""

    @flow
    async def parent():
        await load_sessions(credentials, warehouse, days=1, segments=["device_type=ALL"])

    scheduled = datetime(2024, 3, 8, 4, tzinfo=UTC)
    async with get_client() as client:
        run = await client.create_flow_run(parent, state=Scheduled(scheduled_time=scheduled))
    await run_flow(parent, flow_run=run)
    assert [body["customTimePeriod"]["startDate"] for body in shop.submits] == ["2024-03-07"]


async def test_dates_take_precedence_over_days(shop, credentials, warehouse):
    """A backfill can be started from the run form of the daily deployment."""
    await load_sessions(credentials, warehouse, START, END, days=7, segments=["device_type=ALL"])
    days = [body["customTimePeriod"]["startDate"] for body in shop.submits]
    assert sorted(days) == ["2024-03-01", "2024-03-02", "2024-03-03"]


async def test_a_dry_run_shows_the_plan_and_submits_nothing(
    shop, credentials, warehouse, database, artifacts
):
    """The plan lists each partition to load with its reason."""
    assert await load_sessions(credentials, warehouse, START, END, dry_run=True) == []
    assert shop.submits == []
    assert landed(database) == {}
    plan = (await artifacts(PLAN_KEY))[0]
    assert '"reason": "missing"' in plan.data
    assert "9 partitions to load (9 missing), 0 settled" in plan.description


async def test_a_first_load_is_estimated_without_history(shop, credentials, warehouse, caplog):
    """The estimate is at least a submit and a page for each of the nine jobs."""
    await load_sessions(credentials, warehouse, START, END, dry_run=True)
    assert "9 jobs: first load, no history yet; at least 18 requests." in caplog.text
    assert shop.submits == []


async def test_a_load_is_estimated_from_the_sizes_of_earlier_loads(
    shop, credentials, warehouse, caplog
):
    """The estimate of reloaded days is the number of sessions that they hold."""
    await load_sessions(credentials, warehouse, START, END)
    options = {"refresh": "all", "dry_run": True}
    await load_sessions(credentials, warehouse, START, END, **options)
    sessions = sum(map(len, truth(shop).values()))
    assert f"9 jobs: about {sessions:,} sessions (" in caplog.text
    assert ") in 18 requests." in caplog.text


@pytest.mark.parametrize("start", [START - timedelta(365), END + timedelta(29)])
async def test_older_days_and_days_after_a_pause_are_estimated_from_loaded_days(
    credentials, warehouse, caplog, start
):
    """A backfill uses the newest loads, and a pause of four weeks does not hide the history."""
    await load_sessions(credentials, warehouse, START, END)
    await load_sessions(credentials, warehouse, start, start + timedelta(1), dry_run=True)
    assert "3 jobs: about " in caplog.text


async def test_a_load_above_the_limit_needs_confirm(shop, credentials, warehouse):
    """Without confirm nothing is submitted, and the error says what to do."""
    sentence = (
        "Estimated 18 requests exceed confirm_above=17; nothing was submitted. "
        "Set confirm=true, or when_too_big=partial, or reduce the range."
    )
    with pytest.raises(LoadLimitError, match=f"^{re.escape(sentence)}$"):
        await load_sessions(credentials, warehouse, START, END, confirm_above=17)
    assert shop.submits == []
    options = {"confirm_above": 17, "confirm": True}
    assert len(await load_sessions(credentials, warehouse, START, END, **options)) == 9


async def test_a_load_at_the_limit_needs_no_confirm(credentials, warehouse):
    """A load whose estimate equals confirm_above starts without confirm."""
    options = {"segments": ["device_type=ALL"], "confirm_above": 6}
    assert len(await load_sessions(credentials, warehouse, START, END, **options)) == 3


async def test_scheduled_runs_load_a_gap_that_is_too_big(
    shop, credentials, warehouse, database, artifacts
):
    """Each run loads confirm_above, its state counts the rest, and the last one completes it."""
    load = {"days": 5, "segments": ["device_type=ALL"], "confirm_above": 6}
    daily = DAILY_LOAD.parameters | load | {"credentials": credentials, "warehouse": warehouse}
    states = [await run_scheduled(daily, date(2024, 3, day)) for day in (10, 11, 12)]
    left = ". Partial load: 2 partitions of 2024-03-08 to 2024-03-09 left for the next run"
    assert [state.message.endswith(left) for state in states] == [True, False, False]
    assert {state.name for state in states} == {"Completed"}
    assert len(shop.submits) == 7
    assert_exact(database, truth(shop, date(2024, 3, 5), date(2024, 3, 12), ("ALL",)))
    first = (await artifacts(PLAN_KEY))[0]
    assert "3 partitions to load (3 missing), 2 left for the next run, 0 settled." in (
        first.description
    )
    assert [(row["day"], row["reason"]) for row in json.loads(first.data)] == [
        *((f"2024-03-0{day}", "missing") for day in (5, 6, 7)),
        *((f"2024-03-0{day}", "missing, left for the next run") for day in (8, 9)),
    ]


async def test_a_partial_dry_run_shows_what_would_be_left(shop, credentials, warehouse, caplog):
    """The estimate is that of the partial load, and confirm loads everything."""
    options = {"confirm_above": 16, "when_too_big": "partial", "dry_run": True}
    await load_sessions(credentials, warehouse, START, END, **options)
    assert "8 jobs: first load" in caplog.text
    left = "2024-03-03 device_type=TABLET (missing, left for the next run, 1 job)"
    assert f"Would load {left}" in caplog.text
    assert shop.submits == []
    options = {"confirm_above": 16, "when_too_big": "partial", "confirm": True}
    assert len(await load_sessions(credentials, warehouse, START, END, **options)) == 9


async def run_scheduled(parameters, day):
    """The final state of a run of 01:00 UTC of a day."""
    scheduled = Scheduled(scheduled_time=datetime(day.year, day.month, day.day, 1, tzinfo=UTC))
    async with get_client() as client:
        run = await client.create_flow_run(load_sessions, state=scheduled)
    return await run_flow(load_sessions, flow_run=run, parameters=parameters, return_type="state")


async def test_days_are_the_complete_ones_before_the_scheduled_time(shop, credentials, warehouse):
    """A run that starts late loads the days before its scheduled time."""
    parameters = {
        "credentials": credentials,
        "warehouse": warehouse,
        "days": 2,
        "segments": ["device_type=ALL"],
    }
    await run_scheduled(parameters, date(2024, 3, 10))
    days = [body["customTimePeriod"]["startDate"] for body in shop.submits]
    assert sorted(days) == ["2024-03-08", "2024-03-09"]


async def test_the_running_day_is_loaded_where_it_is_included(shop, credentials, warehouse):
    """At 01:00 UTC it is 10 March in Jerusalem, too."""
    parameters = {
        "credentials": credentials,
        "warehouse": warehouse,
        "days": 1,
        "include_today": True,
        "segments": ["device_type=ALL"],
    }
    await run_scheduled(parameters, date(2024, 3, 10))
    days = [body["customTimePeriod"]["startDate"] for body in shop.submits]
    assert sorted(days) == ["2024-03-09", "2024-03-10"]


async def test_every_kind_of_segment_lands_under_its_key(shop, credentials, warehouse, database):
    """Devices, funnel steps and navigation flows land under their stable keys."""
    segments = {
        "device_type=ALL": {"deviceType": {"type": "ALL"}},
        "conversion_funnel=+VIEWED_PRODUCT-ADDED_TO_CART": {
            "conversionFunnel": {"include": "VIEWED_PRODUCT", "exclude": "ADDED_TO_CART"}
        },
        "navigation_flow=/{Homepage}>*": {
            "navigationFlow": {"pageInteractions": ["/{Homepage}", ""]}
        },
    }
    await load_sessions(
        credentials, warehouse, START, START + timedelta(1), segments=list(segments)
    )
    period = {"customTimePeriod": {"startDate": "2024-03-01", "endDate": "2024-03-02"}}
    expected = {
        (START, key): shop.answer({**period, **body, "timezone": "Asia/Jerusalem"})
        for key, body in segments.items()
    }
    assert all(expected.values())
    assert_exact(database, expected)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({}, "No days: give start_date"),
        ({"start_date": START}, "start_date and end_date go together"),
        ({"start_date": END, "end_date": START}, "must come after"),
        ({"days": 1, "segments": ["device=MOBILE"]}, "is not known. Write device_type=MOBILE"),
        ({"days": 1, "timezone": "Mars/Olympus"}, "is not an IANA time zone"),
        ({"days": 1, "segments": []}, "No segments"),
        ({"days": 0}, "greater than or equal to 1"),
    ],
)
async def test_invalid_parameters_are_rejected_with_a_reason(
    shop, credentials, warehouse, parameters, sentence
):
    """Invalid parameters are rejected before anything is submitted."""
    with pytest.raises(Exception, match=sentence):
        await load_sessions(credentials, warehouse, **parameters)
    assert shop.submits == []


async def test_a_site_without_a_time_zone_needs_the_parameter(credentials, warehouse):
    """Without a time zone in the Wix settings the run fails, unless timezone is set."""
    with running(make_world(100), now=NOW, rules=Rules(site_timezone_known=False)) as shop:
        credentials = credentials.model_copy(update={"base_url": shop.url})
        with pytest.raises(WixError, match="has no time zone in its Wix settings"):
            await load_sessions(credentials, warehouse, START, END)
        await load_sessions(credentials, warehouse, START, END, timezone="Asia/Jerusalem")


async def test_a_load_leaves_artifacts_and_an_event(shop, credentials, warehouse, artifacts):
    """The run leaves a table, the event of a load, and an asset."""
    started = datetime.now(UTC)
    results = await load_sessions(credentials, warehouse, START, END)
    table = (await artifacts(RESULT_KEY))[0]
    sessions = sum(one.sessions for one in results)
    assert f"9 partitions: 9 landed; {sessions:,} sessions" in table.description
    events = await read_events(started, {LANDED_EVENT, MATERIALIZED})
    payload = events[LANDED_EVENT]["payload"]
    assert payload["changed_days"] == ["2024-03-01", "2024-03-02", "2024-03-03"]
    assert (payload["start_date"], payload["end_date"]) == ("2024-03-01", "2024-03-04")
    assert payload["sessions"] == sessions
    asset = events[MATERIALIZED]
    assert asset["resource"]["prefect.resource.id"] == f"wix://{shop.site_id}/sessions"


async def read_events(since, names):
    """The newest event of each name; waits until the server has all of them."""
    found = {}
    for _ in range(60):
        async with get_client() as client:
            response = await client._client.post(
                "/events/filter",
                json={
                    "filter": {
                        "occurred": {"since": since.isoformat()},
                        "event": {"name": sorted(names)},
                    }
                },
            )
        found = {event["event"]: event for event in reversed(response.json()["events"])}
        if names <= set(found):
            break
        await asyncio.sleep(0.5)
    return found

"""The flow profile-sessions: the rows and artifacts it writes, and its failures."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import duckdb
import pytest

from prefect_wix import SessionsWarehouse
from prefect_wix.client.models import FunnelStep
from prefect_wix.deployments.definitions import DEPLOYMENTS
from prefect_wix.errors import CompletenessError, WarehouseUnsupportedError
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.flows.profile_sessions import (
    CERTIFICATE_KEY,
    DEVICES_KEY,
    FUNNEL_KEY,
    RECONCILIATION_KEY,
    REPORT_KEY,
    OnBroken,
    profile_sessions,
)
from prefect_wix.profiles.relations import relations
from prefect_wix.sandbox import Fault, Rules, running
from prefect_wix.tasks.events import PROFILED_EVENT
from prefect_wix.tasks.schedule import local_today
from tests.conftest import NOW, make_world
from tests.flows.test_load_sessions import read_events

START, END = date(2024, 3, 1), date(2024, 3, 4)
SEGMENTS = [
    *(f"device_type={device}" for device in ("DESKTOP", "MOBILE", "TABLET", "ALL")),
    *(f"conversion_funnel=+{step}" for step in FunnelStep),
]
HOME = "navigation_flow=/{Homepage}>__DROP__"


FILES = []


@pytest.fixture(autouse=True)
def today(monkeypatch):
    """The day of the sandbox's clock."""
    monkeypatch.setattr("prefect_wix.tasks.profiles.local_today", lambda _: NOW.date())


@pytest.fixture
async def landed(credentials, warehouse, database):
    """Three loaded days of nine segments and one flow. The file is loaded once and copied."""
    if not FILES:
        await load_sessions(credentials, warehouse, START, END, segments=[*SEGMENTS, HOME])
        FILES.append(database.read_bytes())
    database.write_bytes(FILES[0])


@pytest.fixture
def log_lines(caplog):
    """A function that returns the logged messages."""
    return lambda: [record.getMessage() for record in caplog.records]


async def test_every_session_has_a_row(shop, credentials, warehouse, database, landed):
    """Each row has the session's device and deepest step."""
    summary = await profile_sessions(credentials, warehouse, START, END)
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.execute("SELECT session_id, device, deepest_step FROM wix_sessions")
        found = sorted(rows.fetchall())
    sessions = [shop.world.session(shop.world.find(session_id)) for session_id, _, _ in found]
    assert found == [(one.id, one.device, one.depth) for one in sessions]
    total = shop.answer(
        {
            "customTimePeriod": {"startDate": str(START), "endDate": str(END)},
            "deviceType": {"type": "ALL"},
        }
    )
    assert {one.id for one in sessions} == total
    assert summary.sessions == len(total)


async def test_results_are_artifacts(shop, credentials, warehouse, landed, artifacts, tmp_path):
    """The run has a funnel, devices, certificate, reconciliation and the report's numbers."""
    report = tmp_path / "report.html"
    flows = {"home_then_left": HOME}
    summary = await profile_sessions(credentials, warehouse, START, END, flows=flows, report=report)
    funnel = (await artifacts(FUNNEL_KEY))[0].data.splitlines()[2:]
    assert [row.split(" | ")[0] for row in funnel] == [f"| {step}" for step in FunnelStep]
    assert funnel[0].endswith(f"| {summary.sessions:,} | 100.0% | 100.0% | {20 * '█'} |")
    devices = (await artifacts(DEVICES_KEY))[0].data.splitlines()
    assert "█ DESKTOP ▓ MOBILE ▒ TABLET" in devices[0]
    assert [row[2:12] for row in devices[2:]] == ["2024-03-03", "2024-03-02", "2024-03-01"]
    certificate = (await artifacts(CERTIFICATE_KEY))[0]
    assert "21 held, 0 broken, 0 not testable" in certificate.description
    reconciled = json.loads((await artifacts(RECONCILIATION_KEY))[0].data)
    assert [row["ratio"] for row in reconciled] == 3 * ["1.000"]
    (shown,) = await artifacts(REPORT_KEY)
    numbers = {row["number"]: row["value"] for row in json.loads(shown.data)}
    assert numbers["Sessions"] == f"{summary.sessions:,}"
    assert numbers["Days landed"] == "3 of 3"
    assert str(report) in shown.description
    assert "home_then_left" in report.read_text()
    assert f"Site Shop 1 ({shop.site_id})" in report.read_text()


async def test_a_rerun_recomputes_changed_days_only(credentials, warehouse, landed, log_lines):
    """A rerun without changes logs 0 days; the event has the recomputed days only."""
    await profile_sessions(credentials, warehouse, START, END)
    started = datetime.now(UTC)
    await profile_sessions(credentials, warehouse, START, END)
    assert any(": recomputed 0 of 3 days." in line for line in log_lines())
    await load_sessions(credentials, warehouse, END, date(2024, 3, 5), segments=SEGMENTS)
    await profile_sessions(credentials, warehouse, START, date(2024, 3, 5))
    event = (await read_events(started, {PROFILED_EVENT}))[PROFILED_EVENT]
    assert event["payload"]["computed_days"] == ["2024-03-03", "2024-03-04"]


async def test_counts_that_differ_do_not_fail_the_run(credentials, warehouse, landed):
    """Wix's count is 5 % higher: the ratio is below 1 and no relation is broken."""
    with running(make_world(), now=NOW, rules=Rules(counts_match=False)) as other:
        block = credentials.model_copy(update={"base_url": other.url})
        summary = await profile_sessions(
            block, warehouse, START, END, timezone="Asia/Jerusalem", on_broken=OnBroken.FAIL
        )
    assert all(0.8 < row.ratio < 1 for row in summary.reconciliation)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            Fault("forbidden", on="data"),
            "Reconciliation skipped: the credentials lack the permission to read site analytics",
        ),
        (Fault("server_error", on="data", status=504), "Reconciliation skipped: Wix returned 504"),
    ],
)
async def test_counts_that_cannot_be_read_are_one_log_line(
    shop, credentials, warehouse, landed, log_lines, fault, sentence
):
    """The profiles are computed nevertheless."""
    shop.faults = [fault]
    summary = await profile_sessions(credentials, warehouse, START, END)
    assert summary.reconciliation == ()
    assert summary.sessions > 0
    assert sum(sentence in line for line in log_lines()) == 1


@pytest.mark.parametrize(
    ("start", "end", "requested"),
    [
        (date(2023, 12, 16), date(2024, 3, 15), ["2024-01-14"]),
        (date(2024, 1, 13), date(2024, 1, 15), ["2024-01-14"]),
        (date(2023, 12, 16), date(2024, 1, 14), []),
    ],
)
async def test_counts_are_requested_from_61_days_before_today(
    shop, credentials, warehouse, start, end, requested
):
    """Wix rejects an older start, wherever the window ends; today is 2024-03-15."""
    await profile_sessions(credentials, warehouse, start, end)
    starts = [one.params["dateRange.startDate"] for one in shop.requests if one.endpoint == "data"]
    assert starts == requested


def test_today_is_the_day_in_the_time_zone_of_the_window():
    """Kiritimati is 25 hours ahead of Pago Pago, so its date is always another one."""
    assert local_today("Pacific/Kiritimati") > local_today("Pacific/Pago_Pago")


async def test_another_site_is_not_reconciled(shop, credentials, warehouse, landed):
    """No counts are requested for a site other than that of the credentials."""
    shop.reset_counts()
    summary = await profile_sessions(credentials, warehouse, START, END, site_id="elsewhere")
    assert (summary.site_id, summary.sessions) == ("elsewhere", 0)
    assert shop.count("data") == 0


async def test_a_broken_relation_is_a_warning(shop, credentials, warehouse, log_lines):
    """One session is missing in one segment: the log names it, and the run completes."""
    shop.faults = [Fault("growing_result", until=1, step=0, times=1)]
    segments = ["device_type=ALL", "conversion_funnel=+SITE_SESSIONS"]
    await load_sessions(credentials, warehouse, START, END, segments=segments, jobs_in_flight=1)
    summary = await profile_sessions(credentials, warehouse, START, END)
    (row,) = summary.broken
    counts = f"contradicted by 1 of {row.sessions:,} IDs, for example"
    sentence = f"{row.day}: broken: {row.description}: {counts}"
    assert any(sentence in line for line in log_lines())


async def test_a_broken_relation_fails_the_run_on_request(shop, credentials, warehouse, artifacts):
    """The error counts the broken relations; the certificate is stored and shown."""
    shop.faults = [Fault("growing_result", until=1, step=0, times=1)]
    segments = ["device_type=ALL", "conversion_funnel=+SITE_SESSIONS"]
    await load_sessions(credentials, warehouse, START, END, segments=segments, jobs_in_flight=1)
    with pytest.raises(CompletenessError, match="1 broken relation between landed segments"):
        await profile_sessions(credentials, warehouse, START, END, on_broken=OnBroken.FAIL)
    certificate = json.loads((await artifacts(CERTIFICATE_KEY))[0].data)
    assert certificate[0]["state"] == "broken"


async def test_a_parquet_warehouse_is_not_supported(credentials, tmp_path):
    """The error names the supported warehouses."""
    files = SessionsWarehouse(url=f"parquet:///{tmp_path}/lake")
    with pytest.raises(WarehouseUnsupportedError, match=r"need a duckdb:// or postgresql://"):
        await profile_sessions(credentials, files, START, END)


async def test_an_empty_funnel_names_the_segments_to_load(credentials, warehouse, artifacts):
    """Nothing is loaded: a newcomer reads what to load, instead of an empty table."""
    await profile_sessions(credentials, warehouse, START, END)
    funnel = (await artifacts(FUNNEL_KEY))[0].data
    assert funnel.startswith(
        "No step of the funnel is loaded. Load the segments `conversion_funnel=+"
    )


def test_the_daily_deployment_loads_what_its_profile_needs():
    """With these segments every relation of a day can be tested."""
    needed = {member for relation in relations([]) for member in relation.members}
    (daily,) = (one for one in DEPLOYMENTS if one.name == "daily-load")
    assert needed <= set(daily.parameters["segments"])

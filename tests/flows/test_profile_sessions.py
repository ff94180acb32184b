"""The flow that tells what landed ids mean: what it stores, shows, and fails on."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import duckdb
import pytest

from flows.load_sessions import load_sessions
from flows.profile_sessions import (
    CERTIFICATE_KEY,
    DEVICES_KEY,
    FUNNEL_KEY,
    RECONCILIATION_KEY,
    REPORT_KEY,
    OnBroken,
    profile_sessions,
)
from prefect_wix import SessionsWarehouse
from prefect_wix.client.models import FunnelStep
from prefect_wix.errors import CompletenessError, WarehouseUnsupportedError
from prefect_wix.sandbox import Fault, Rules, running
from prefect_wix.tasks.events import PROFILED_EVENT
from tests.conftest import NOW, make_world
from tests.flows.test_load_sessions import read_events

START, END = date(2024, 3, 1), date(2024, 3, 4)
SEGMENTS = [
    *(f"device_type={device}" for device in ("DESKTOP", "MOBILE", "TABLET", "ALL")),
    *(f"conversion_funnel=+{step}" for step in FunnelStep),
]
HOME = "navigation_flow=/{Homepage}>__DROP__"


FILES = []


@pytest.fixture
async def landed(credentials, warehouse, database):
    """Three days of nine segments and one flow; loaded once, since each test has the same shop."""
    if not FILES:
        await load_sessions(credentials, warehouse, START, END, segments=[*SEGMENTS, HOME])
        FILES.append(database.read_bytes())
    database.write_bytes(FILES[0])


@pytest.fixture
def said(caplog):
    """What was logged, one text a record."""
    return lambda: [record.getMessage() for record in caplog.records]


async def test_every_session_gets_its_row(shop, credentials, warehouse, database, landed):
    """The rows are what the shop knows of its sessions."""
    summary = await profile_sessions(credentials, warehouse, START, END)
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.execute("SELECT session_id, device, deepest_step FROM wix_sessions")
        found = sorted(rows.fetchall())
    everyone = [shop.world.session(shop.world.find(session_id)) for session_id, _, _ in found]
    assert found == [(one.id, one.device, one.depth) for one in everyone]
    total = shop.answer(
        {
            "customTimePeriod": {"startDate": str(START), "endDate": str(END)},
            "deviceType": {"type": "ALL"},
        }
    )
    assert {one.id for one in everyone} == total
    assert summary.sessions == len(total)


async def test_what_is_found_is_shown(shop, credentials, warehouse, landed, artifacts, tmp_path):
    """Funnel, devices, certificate, reconciliation and a link to the report."""
    report = tmp_path / "report.html"
    flows = {"home_then_left": HOME}
    summary = await profile_sessions(credentials, warehouse, START, END, flows=flows, report=report)
    funnel = json.loads((await artifacts(FUNNEL_KEY))[0].data)
    assert [row["step"] for row in funnel] == list(FunnelStep)
    assert funnel[0]["sessions"] == summary.sessions
    devices = json.loads((await artifacts(DEVICES_KEY))[0].data)
    assert [row["day"] for row in devices] == ["2024-03-03", "2024-03-02", "2024-03-01"]
    certificate = (await artifacts(CERTIFICATE_KEY))[0]
    assert "21 held, 0 broken, 0 not testable" in certificate.description
    reconciled = json.loads((await artifacts(RECONCILIATION_KEY))[0].data)
    assert [row["ratio"] for row in reconciled] == 3 * ["1.000"]
    assert report.as_uri() in (await artifacts(REPORT_KEY))[0].data
    assert "home_then_left" in report.read_text()


async def test_a_rerun_computes_nothing_and_says_so(credentials, warehouse, landed, said):
    """Only what changed is computed, and only that is announced."""
    await profile_sessions(credentials, warehouse, START, END)
    started = datetime.now(UTC)
    await profile_sessions(credentials, warehouse, START, END)
    assert any(": 0 days computed anew" in line for line in said())
    await load_sessions(credentials, warehouse, END, date(2024, 3, 5), segments=SEGMENTS)
    await profile_sessions(credentials, warehouse, START, date(2024, 3, 5))
    event = (await read_events(started, {PROFILED_EVENT}))[PROFILED_EVENT]
    assert event["payload"]["computed_days"] == ["2024-03-03", "2024-03-04"]


async def test_counts_that_do_not_agree_are_information(credentials, warehouse, landed):
    """Wix's count is 5 % higher: a ratio below one, and no failure."""
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
            "may not read Wix's site analytics, which is another permission",
        ),
        (Fault("server_error", on="data", status=504), "count of sessions: Wix answered 504"),
    ],
)
async def test_counts_that_can_not_be_read_are_one_line(
    shop, credentials, warehouse, landed, said, fault, sentence
):
    """The profile is made all the same."""
    shop.faults = [fault]
    summary = await profile_sessions(credentials, warehouse, START, END)
    assert summary.reconciliation == ()
    assert summary.sessions > 0
    assert sum(sentence in line for line in said()) == 1


async def test_another_site_is_not_reconciled(shop, credentials, warehouse, landed):
    """The counts of one site are not held beside the sessions of another."""
    shop.reset_counts()
    summary = await profile_sessions(credentials, warehouse, START, END, site_id="elsewhere")
    assert (summary.site_id, summary.sessions) == ("elsewhere", 0)
    assert shop.count("data") == 0


async def test_a_broken_relation_warns(shop, credentials, warehouse, said):
    """One session is missing in one segment: it is named, and the run goes on."""
    shop.faults = [Fault("growing_result", until=1, step=0, times=1)]
    segments = ["device_type=ALL", "conversion_funnel=+SITE_SESSIONS"]
    await load_sessions(credentials, warehouse, START, END, segments=segments, jobs_in_flight=1)
    summary = await profile_sessions(credentials, warehouse, START, END)
    (row,) = summary.broken
    line = f"{row.day}: broken: {row.description}: 1 of {row.sessions} ids contradict it, such as"
    assert any(line in text for text in said())


async def test_a_broken_relation_fails_where_that_is_asked_for(
    shop, credentials, warehouse, artifacts
):
    """The error names the first; what was found is stored and shown all the same."""
    shop.faults = [Fault("growing_result", until=1, step=0, times=1)]
    segments = ["device_type=ALL", "conversion_funnel=+SITE_SESSIONS"]
    await load_sessions(credentials, warehouse, START, END, segments=segments, jobs_in_flight=1)
    with pytest.raises(CompletenessError, match="1 relations between landed segments are broken"):
        await profile_sessions(credentials, warehouse, START, END, on_broken=OnBroken.FAIL)
    certificate = json.loads((await artifacts(CERTIFICATE_KEY))[0].data)
    assert certificate[0]["state"] == "broken"


async def test_a_warehouse_of_files_is_refused(credentials, tmp_path):
    """One sentence that names the warehouses that will do."""
    files = SessionsWarehouse(url=f"parquet:///{tmp_path}/lake")
    with pytest.raises(WarehouseUnsupportedError, match=r"need a duckdb:// or postgresql://"):
        await profile_sessions(credentials, files, START, END)

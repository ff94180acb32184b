"""The dbt example: a model built on profiled sessions, with dbt's own tests."""

from __future__ import annotations

import json
import shutil
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from flows.build_funnel import ARTIFACT_KEY, PROJECT, build_funnel
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.flows.profile_sessions import profile_sessions
from prefect_wix.profiles.schema import prepare_profiles
from tests.options import skip_without
from tests.processes import ROOT
from tests.warehouses import land, on_day

OWN = ROOT / ".venv" / "dbt" / "bin" / "dbt"
DBT = OWN if OWN.exists() else shutil.which("dbt")
START, DAYS = date(2024, 3, 1), 3
END = START + timedelta(days=DAYS)
STEPS = ["VIEWED_PRODUCT", "ADDED_TO_CART", "REACHED_CHECKOUT", "SESSIONS_CONVERTED"]
DEVICES = ["DESKTOP", "MOBILE", "TABLET"]
SEGMENTS = [
    *(f"device_type={device}" for device in [*DEVICES, "ALL"]),
    *(f"conversion_funnel=+{step}" for step in ["SITE_SESSIONS", *STEPS]),
]


@pytest.fixture(autouse=True)
def dbt():
    """Skip the tests if dbt is not installed."""
    if DBT is None:
        skip_without("dbt (make .venv/dbt/.ready)")


@pytest.fixture
async def profiled(credentials, warehouse):
    """Three days of the shop, loaded and profiled."""
    await load_sessions(credentials, warehouse, START, END, segments=SEGMENTS)
    await profile_sessions(credentials, warehouse, START, END)


async def test_the_model_has_the_true_counts(shop, profiled, database, artifacts):
    """Each day and device has the true number of sessions at each step."""
    rows = await build_funnel(database, Path(DBT))
    with duckdb.connect(str(database), read_only=True) as connection:
        found = connection.execute(
            f"SELECT session_date, device, sessions, {', '.join(STEPS)} "
            "FROM funnel_by_day_and_device WHERE device <> 'unknown'"
        ).fetchall()
    assert {(day, device): counts for day, device, *counts in found} == dict(truth(shop))
    assert rows >= len(found) == DAYS * len(DEVICES)
    table = json.loads((await artifacts(ARTIFACT_KEY))[0].data)
    assert table[0]["day"] == "2024-03-03"
    assert "converted %" in table[0]


def truth(shop):
    """(day, device) and the true counts, from the sandbox's sessions."""
    for day in (START + timedelta(days=n) for n in range(DAYS)):
        period = {"startDate": str(day), "endDate": str(day + timedelta(days=1))}
        query = {"customTimePeriod": period, "timezone": "Asia/Jerusalem"}
        reached = [shop.answer({**query, "conversionFunnel": {"include": one}}) for one in STEPS]
        for device in DEVICES:
            ids = shop.answer({**query, "deviceType": {"type": device}})
            yield (day, device), [len(ids), *(len(ids & those) for those in reached)]


async def test_the_incremental_model_appends_each_change_once(warehouse, database):
    """The second build finds an added session, a removed one and a new day."""
    engine = warehouse.get_warehouse()
    await prepare_profiles(engine)
    await engine.prepare()
    await land(engine, ["a", "b"])
    log = "SELECT session_date, session_id, change, version FROM {} ORDER BY ALL"
    for hours, ids in enumerate((["a", "b"], ["b", "c"])):
        await land(engine, ids, hours=hours)
        await land(engine, ["d"], on_day(1 + hours))
        await build_funnel(database, Path(DBT))
        with duckdb.connect(str(database), read_only=True) as connection:
            rows = connection.execute(log.format("session_changes")).fetchall()
            assert rows == connection.execute(log.format("wix_session_changes")).fetchall()
    assert [row[1:] for row in rows if row[2] == "removed"] == [("a", "removed", 2)]


async def test_a_failed_dbt_test_fails_the_run(warehouse, database):
    """The error points to the log."""
    await prepare_profiles(warehouse.get_warehouse())
    with duckdb.connect(str(database)) as connection:
        connection.execute(
            "INSERT INTO wix_sessions (site_id, session_date, session_id, device, deepest_step) "
            "VALUES ('site', '2024-03-01', 'a-session', 'WATCH', 'SITE_SESSIONS')"
        )
    with pytest.raises(RuntimeError, match=r"dbt build failed .* See the log"):
        await build_funnel(database, Path(DBT))


def test_dbt_writes_no_files_into_the_project():
    """Target and log files are written to a temporary folder."""
    assert not {"target", "logs", "dbt_packages"} & {one.name for one in PROJECT.iterdir()}

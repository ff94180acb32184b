"""The dbt example, run as its README says: a model on profiled sessions, tested by dbt itself."""

from __future__ import annotations

import json
import shutil
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from examples.dbt.build_funnel import ARTIFACT_KEY, PROJECT, build_funnel
from flows.load_sessions import load_sessions
from flows.profile_sessions import profile_sessions
from tests.processes import ROOT

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

pytestmark = pytest.mark.skipif(DBT is None, reason="dbt is not there: make .venv/dbt/.ready")


@pytest.fixture
async def profiled(credentials, warehouse):
    """Three days of the shop, loaded and profiled."""
    await load_sessions(credentials, warehouse, START, END, segments=SEGMENTS)
    await profile_sessions(credentials, warehouse, START, END)


async def test_the_model_counts_what_the_shop_knows(shop, profiled, database, artifacts):
    """Each day and device has as many sessions at each step as really came that far."""
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
    """What Wix would answer, day by day and device by device."""
    for day in (START + timedelta(days=n) for n in range(DAYS)):
        period = {"startDate": str(day), "endDate": str(day + timedelta(days=1))}
        asked = {"customTimePeriod": period, "timezone": "Asia/Jerusalem"}
        reached = [shop.answer({**asked, "conversionFunnel": {"include": one}}) for one in STEPS]
        for device in DEVICES:
            ids = shop.answer({**asked, "deviceType": {"type": device}})
            yield (day, device), [len(ids), *(len(ids & those) for those in reached)]


async def test_a_model_that_is_wrong_fails_the_run(warehouse, database):
    """When what dbt is given breaks its tests, the run fails and points to the log."""
    await warehouse.get_warehouse().prepare()
    with duckdb.connect(str(database)) as connection:
        connection.execute(
            "INSERT INTO wix_sessions (site_id, session_date, session_id, device, deepest_step) "
            "VALUES ('site', '2024-03-01', 'a-session', 'WATCH', 'SITE_SESSIONS')"
        )
    with pytest.raises(RuntimeError, match="a test of it failed: see the log"):
        await build_funnel(database, Path(DBT))


def test_dbt_leaves_nothing_in_the_project():
    """What dbt writes beside its model goes to a scratch folder."""
    assert not {"target", "logs", "dbt_packages"} & {one.name for one in PROJECT.iterdir()}

"""The gallery in examples/: each recipe, program and notebook runs on days of the sandbox."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections import Counter
from datetime import date, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import duckdb
import httpx
import pytest

from examples.count_by_day import AFTER_LOAD, count_by_day
from examples.send_new_sessions import send_new_sessions
from examples.share_of_phones import share_of_phones
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.load import session_changes
from prefect_wix.tasks.events import LANDED_EVENT
from tests.processes import ROOT
from tests.warehouses import MOBILE, land

EXAMPLES = ROOT / "examples"
START = date(2024, 3, 1)
CARTS = "conversion_funnel=+ADDED_TO_CART-REACHED_CHECKOUT"
SEGMENTS = [*(f"device_type={one}" for one in ("DESKTOP", "MOBILE", "TABLET")), CARTS]


@pytest.fixture
async def loaded(credentials, warehouse, database):
    """A connection to a DuckDB file with three days, and a gap between them."""
    for first, days in ((0, 2), (3, 1)):
        day = START + timedelta(first)
        end = day + timedelta(days)
        await load_sessions(credentials, warehouse, day, end, segments=SEGMENTS)
    return database


async def test_each_recipe_in_sql_finds_rows(loaded):
    """Every recipe runs as written; what a fresh load cannot show is changed in one receipt."""
    recipes = {path.stem: path.read_text() for path in EXAMPLES.glob("*.sql")}
    with duckdb.connect(str(loaded)) as connection:
        connection.execute(
            "UPDATE wix_session_receipts SET added = 1, kept = sessions - 1 "
            "WHERE session_date = '2024-03-01' AND segment = 'device_type=MOBILE'"
        )
        rows = {name: connection.execute(sql).fetchall() for name, sql in recipes.items()}
        landed = Counter(
            (day, segment)
            for day, segment in connection.execute(
                "SELECT session_date, segment FROM wix_session_ids"
            ).fetchall()
        )
    assert len(rows) == 5
    devices = rows["sessions_by_day_and_device"]
    assert {(day, mobile) for _, day, _, mobile, _ in devices} == {
        (day, n) for (day, segment), n in landed.items() if segment == "device_type=MOBILE"
    }
    assert {row[-1] for row in rows["gaps"]} == {1}
    assert len(rows["gaps"]) == len(SEGMENTS)
    assert len(rows["late_sessions"]) == 1
    assert [row[1:3] for row in rows["jobs_by_day"]] == [("landed", 12)]
    carts = sum(n for (_, segment), n in landed.items() if segment == CARTS)
    assert 0 < len(rows["abandoned_carts_on_phones"]) < carts


async def test_each_recipe_in_sql_runs_in_postgres(make_bench):
    """On the empty tables of a new schema."""
    bench = make_bench("postgres")
    await bench.ready()
    for recipe in EXAMPLES.glob("*.sql"):
        await bench.sql(re.sub(r"\bwix_", f"{bench.schema}.wix_", recipe.read_text()))


async def test_the_programs_count_the_landed_sessions(shop, loaded):
    """The relation has every session by weekday; the flow replaces its days when it is repeated."""
    with duckdb.connect(str(loaded), read_only=True) as connection:
        weekdays = share_of_phones(connection).fetchall()
        (sessions,) = connection.execute(
            "SELECT count(*) FROM wix_session_ids WHERE segment LIKE 'device_type=%'"
        ).fetchone()
    assert [row[0] for row in weekdays] == [1, 5, 6]
    assert sum(row[1] for row in weekdays) == sessions
    assert AFTER_LOAD.expect == {LANDED_EVENT}
    for _ in range(2):
        rows = count_by_day(shop.site_id, START, START + timedelta(2), str(loaded))
        assert rows == 2 * len(SEGMENTS)


class Endpoint(BaseHTTPRequestHandler):
    """Counts the requests by idempotency key, and fails at the fifth request."""

    received: ClassVar = Counter()

    def do_POST(self):
        self.received[self.headers["idempotency-key"]] += 1
        self.send_response(500 if self.received.total() == 5 else 204)
        self.end_headers()

    def log_message(self, *_): ...


async def test_new_sessions_are_sent_at_least_once_across_a_crash(warehouse, monkeypatch):
    """The run that failed is repeated from the last batch; a later run sends what came since."""
    monkeypatch.setattr(session_changes, "BATCH_SIZE", 2)
    engine = warehouse.get_warehouse()
    await engine.prepare()
    await land(engine, ["a", "b", "c"])
    await land(engine, ["b", "c", "d", "e"], hours=1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    Thread(target=server.serve_forever, daemon=True).start()
    send = partial(
        send_new_sessions, warehouse, f"http://127.0.0.1:{server.server_port}/", MOBILE.segment
    )
    with pytest.raises(httpx.HTTPStatusError):
        await send()
    assert await send() == 2
    sessions = [json.loads(key)[3] for key in Endpoint.received]
    assert sorted(sessions) == ["a", "b", "c", "d", "e"]
    assert Endpoint.received.total() == 5 + 2
    await land(engine, ["b", "f"], hours=2)
    assert await send() == 1
    server.shutdown()
    server.server_close()


async def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    """Its second load submits nothing; the last cells read the days and stop the sandbox."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads((EXAMPLES / "sandbox.ipynb").read_text())["cells"]
    names = {"__name__": "notebook"}
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            code = compile(source, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)
            if inspect.isawaitable(result):
                await result
    shown = capsys.readouterr().out.splitlines()
    assert "9 partitions" in shown
    assert "0 partitions" in shown
    assert len([line for line in shown if "device_type=" in line]) == 9

"""The demo: load the last 30 days of a sandbox shop, by device, into a DuckDB file.

It needs no Wix account: it starts `prefect_wix.sandbox` as Wix.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from prefect_wix.blocks.credentials import WixCredentials
from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.errors import import_extra
from prefect_wix.flows import load_sessions
from prefect_wix.sandbox import World, running

DAYS = 30
DATABASE = Path("demo-sessions.duckdb")
BY_DAY = """
    SELECT session_date, count(*) FILTER (segment = 'device_type=DESKTOP'),
    count(*) FILTER (segment = 'device_type=MOBILE'),
    count(*) FILTER (segment = 'device_type=TABLET'), count(*)
    FROM wix_landed_sessions GROUP BY session_date ORDER BY session_date
"""


def demo() -> None:
    """Load the last 30 days of a sandbox shop, by device, into demo-sessions.duckdb here.

    Needs no Wix account and no Prefect server: both run inside the demo.
    """
    import_extra("duckdb", extra="duckdb", what_for="The demo")
    with TemporaryDirectory(prefix="prefect-wix-demo-") as home:
        # A process of its own, since Prefect reads these settings when it is imported.
        environment = {name: os.environ[name] for name in os.environ if name[:8] != "PREFECT_"}
        environment |= {
            "PREFECT_HOME": home,
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        command = [sys.executable, "-m", "prefect_wix.cli.demo"]
        done = subprocess.run(command, env=environment, check=False)  # noqa: S603
    sys.exit(done.returncode)


def run() -> None:
    """Start the sandbox, load its sessions and print them by day and device."""
    console = Console()
    DATABASE.unlink(missing_ok=True)
    world = World.generate(sessions=24_000, days=DAYS + 1)
    with running(world, job_seconds=(0.1, 0.7), requests_per_minute=200) as sandbox:
        console.rule("A shop on the Wix sandbox")
        console.print(f"The sandbox at {sandbox.url} stands in for Wix; no account is needed.")
        console.print(
            f"Loading the last {DAYS} complete days x 3 devices: {DAYS * 3} jobs, each submitted, "
            "polled, read page by page, verified and published.\n"
        )
        credentials = WixCredentials(
            api_key=sandbox.api_key, site_id=sandbox.site_id, base_url=sandbox.url
        )
        warehouse = SessionsWarehouse(url=f"duckdb:///{DATABASE}")
        asyncio.run(load_sessions(credentials, warehouse, days=DAYS))
        requests = sandbox.count()
    console.rule("Loaded sessions")
    console.print(_by_day_and_device())
    console.print(f"\n{requests} requests for {DAYS * 3} jobs. The sessions are in {DATABASE}.")
    console.print("A second load submits jobs only for days that may have changed. Query it:\n")
    console.print(_query_line(), soft_wrap=True, highlight=False)


def _by_day_and_device() -> Table:
    duckdb = import_extra("duckdb", extra="duckdb", what_for="The demo")
    table = Table("day", "desktop", "mobile", "tablet", "total")
    with duckdb.connect(str(DATABASE), read_only=True) as connection:
        for row in connection.execute(BY_DAY).fetchall():
            table.add_row(*map(str, row))
    return table


def _query_line() -> str:
    sql = "SELECT session_date, segment, count(*) FROM wix_landed_sessions GROUP BY ALL ORDER BY 1"
    python = f"import duckdb; duckdb.connect('{DATABASE}').sql('{sql}').show()"
    return f'  {sys.executable} -c "{python}"'


if __name__ == "__main__":
    run()

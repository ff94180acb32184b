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
from rich.live import Live

from prefect_wix.blocks.credentials import WixCredentials
from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.errors import WixError, import_extra
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.sandbox import Sandbox, World, running

DAYS = 30
DATABASE = Path("demo-sessions.duckdb")
BY_DAY = (
    "WITH days AS (PIVOT wix_landed_sessions ON segment[13:] USING count(*) GROUP BY session_date) "
    "SELECT *, bar(DESKTOP + MOBILE + TABLET, 0, 1000, 30) AS sessions FROM days ORDER BY ALL"
)


def demo() -> None:
    """Load the last 30 days of a sandbox shop, by device, into demo-sessions.duckdb here.

    Needs no Wix account and no Prefect server: both run inside the demo. A second demo submits jobs
    only for the days that may have changed.
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
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "DO_NOT_TRACK": "1",
        }
        command = [sys.executable, "-m", "prefect_wix.cli.demo"]
        done = subprocess.run(command, env=environment, check=False)  # noqa: S603
    sys.exit(done.returncode)


def run() -> None:
    """Start the sandbox, load its sessions and show them by day and device."""
    duckdb = import_extra("duckdb", extra="duckdb", what_for="The demo")
    console, is_first = Console(highlight=False, soft_wrap=True), not DATABASE.exists()
    console.print(f"Loading the last {DAYS} days of a shop, by device, into {DATABASE}.")
    console.print("A sandbox stands in for Wix; no account is needed.")
    if is_first:
        console.print(f"First load, no history yet: {DAYS} days x 3 devices are {DAYS * 3} jobs.")
    world = World.generate(sessions=24_000, days=DAYS + 1)
    with (
        running(world, job_seconds=(0.1, 0.7), requests_per_minute=200) as sandbox,
        Live(get_renderable=lambda: _progress(sandbox), console=Console(stderr=True)),
    ):
        credentials = WixCredentials(
            api_key=sandbox.api_key, site_id=sandbox.site_id, base_url=sandbox.url
        )
        warehouse = SessionsWarehouse(url=f"duckdb:///{DATABASE}")
        results = asyncio.run(load_sessions(credentials, warehouse, days=DAYS))
    with duckdb.connect(str(DATABASE), read_only=True) as connection:
        connection.sql(BY_DAY).show(max_rows=40)
    console.print(f"{len(results)} jobs, {sandbox.count()} requests. ", end="")
    if is_first:
        console.print("A second `prefect-wix demo` requests only days that may have changed.")
    else:
        console.print(f"The other {DAYS * 3 - len(results)} are unchanged and were not requested.")
    python = f"import duckdb; duckdb.connect('{DATABASE}').sql('{BY_DAY}').show(max_rows=40)"
    console.print(f'\nQuery them:\n  {sys.executable} -c "{python}"')
    console.print("\nNext: `prefect-wix check` says step by step what a real site needs.")


def _progress(sandbox: Sandbox) -> str:
    if jobs := len(sandbox.jobs):
        return f"{jobs} jobs submitted, {sandbox.count()} requests"
    return "Starting a temporary Prefect server (up to half a minute)"


if __name__ == "__main__":
    try:
        run()
    except WixError as error:
        sys.exit(str(error))

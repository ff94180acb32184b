"""A flow that builds and tests the dbt model after `profile_sessions`, triggered by its event.

``python flows/build_funnel.py sessions.duckdb`` serves the flow. dbt runs as a program in a
separate environment; see ``dbt/requirements.txt``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import duckdb
from prefect import aserve, flow, get_run_logger
from prefect.artifacts import acreate_table_artifact
from prefect.events import DeploymentEventTrigger

from prefect_wix.tasks.events import PROFILED_EVENT

PROJECT = Path(__file__).parent / "dbt"
ARTIFACT_KEY = "wix-sessions-dbt-funnel"
FUNNEL = """
    SELECT session_date::TEXT AS day, device, sessions, viewed_product, added_to_cart,
        reached_checkout, sessions_converted, round(100 * conversion_rate, 1) AS "converted %"
    FROM funnel_by_day_and_device ORDER BY session_date DESC, device LIMIT 100
"""


@flow(name="build-funnel")
async def build_funnel(
    database: Path, dbt: Path = Path("dbt"), database_schema: str = "main"
) -> int:
    """Build and test the dbt model on profiled sessions, and show it as an artifact.

    Args:
        database: The DuckDB file of the profiled sessions.
        dbt: The dbt program; a name is looked up on the PATH.
        database_schema: The schema of the session tables and of the model.

    Returns:
        The number of rows of the model.
    """
    with TemporaryDirectory() as scratch:
        await _run(
            [str(dbt), "build", "--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)],
            _settings(database, database_schema),
            scratch=scratch,
        )
    return await _show(database, database_schema)


def _settings(database: Path, schema: str) -> dict[str, str]:
    # Absolute, because dbt runs in the project's folder.
    return {"WIX_DATABASE": str(database.absolute()), "WIX_SCHEMA": schema}


async def _run(command: list[str], settings: dict[str, str], *, scratch: str) -> None:
    """Run dbt and copy each line of its output to the run's log."""
    folders = ["--target-path", f"{scratch}/target", "--log-path", f"{scratch}/logs"]
    process = await asyncio.create_subprocess_exec(
        *command,
        *folders,
        "--no-use-colors",
        env={**os.environ, **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async for line in cast(asyncio.StreamReader, process.stdout):
        get_run_logger().info("dbt: %s", line.decode().rstrip())
    if await process.wait():
        raise RuntimeError("dbt build failed (model or test error). See the log of this run.")


async def _show(database: Path, schema: str) -> int:
    with duckdb.connect(str(database), read_only=True) as connection:
        connection.execute(f'SET schema = "{schema}"')
        found = connection.execute(FUNNEL)
        names = [column[0] for column in found.description]
        table = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        counted = connection.execute("SELECT count(*) FROM funnel_by_day_and_device").fetchone()
    rows = int(counted[0]) if counted else 0
    await acreate_table_artifact(
        table, key=ARTIFACT_KEY, description=f"Rows: {rows:,}; the newest 100 are shown"
    )
    return rows


async def serve(database: str, dbt: str = "dbt") -> None:
    """Serve the flow until stopped; it runs when profiles changed."""
    behind_profiles = await build_funnel.ato_deployment(
        "behind-profiles",
        parameters={"database": database, "dbt": dbt},
        triggers=[DeploymentEventTrigger(expect={PROFILED_EVENT})],
        # Only one process at a time can open the file.
        concurrency_limit=1,
    )
    await aserve(behind_profiles)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))

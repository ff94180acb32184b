"""Artifacts, with a log line that links to them.

The texts and table rows are made in `prefect_wix.tasks.reports`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.settings import PREFECT_UI_URL

from prefect_wix.blocks.warehouse import SessionsWarehouse
from prefect_wix.load.site_calendar import read_calendar
from prefect_wix.planning.plan import Refresh, RefreshPolicy

CALENDAR_KEY = "wix-sessions-calendar"


async def show_table(sentence: str, rows: Sequence[Mapping[str, Any]], *, key: str) -> None:
    """Save a table artifact without empty columns, and log its description with a link.

    Args:
        sentence: the description, without a full stop.
        rows: the table.
        key: the artifact key.
    """
    empty = {name for name in next(iter(rows), ()) if not any(row[name] != "" for row in rows)}
    table = [{name: _readable(row[name]) for name in row if name not in empty} for row in rows]
    artifact_id = await acreate_table_artifact(table, key=key, description=sentence)
    _log(sentence, key, artifact_id)


async def show_markdown(sentence: str, markdown: str, *, key: str) -> None:
    """Save a Markdown artifact and log its description with a link."""
    artifact_id = await acreate_markdown_artifact(markdown, key=key, description=sentence)
    _log(sentence, key, artifact_id)


async def show_calendar(
    warehouse: SessionsWarehouse, site_id: str, timezone: str, policy: RefreshPolicy
) -> None:
    """Save the calendar of the site's last 30 days, unless none of them was ever loaded."""
    policy = replace(policy, refresh=Refresh.STALE, now=datetime.now(UTC))
    engine = warehouse.get_warehouse()
    calendar, _ = await read_calendar(engine, site_id, policy, timezone=timezone)
    counts = Counter(state for days in calendar.states.values() for state in days.values())
    states = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    if states:
        sentence = f"Site {site_id}, {calendar.window}: {states}"
        await show_markdown(sentence, f"```\n{calendar}\n```", key=CALENDAR_KEY)


def _readable(value: Any) -> Any:
    return f"{value:,}" if isinstance(value, int) else value


def _log(sentence: str, key: str, artifact_id: UUID) -> None:
    # `prefect.utilities.urls` has no URLs of artifacts.
    ui = PREFECT_UI_URL.value()
    where = f"{ui}/artifacts/artifact/{artifact_id}" if ui else f"artifact {key}"
    get_run_logger().info("%s. See %s", sentence, where)

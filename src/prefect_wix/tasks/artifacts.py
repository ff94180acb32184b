"""Artifacts, with a log line that links to them.

The texts and table rows are made in `prefect_wix.tasks.reports`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.settings import PREFECT_UI_URL


async def show_table(
    sentence: str, rows: Sequence[Mapping[str, Any]], *, key: str, level: int = logging.INFO
) -> None:
    """Save a table artifact and log its description with a link.

    Args:
        sentence: the description, without a full stop.
        rows: the table.
        key: the artifact key.
        level: the level of the log line.
    """
    table = [dict(row) for row in rows]
    artifact_id = await acreate_table_artifact(table, key=key, description=sentence)
    _log(sentence, key, artifact_id, level)


async def show_markdown(sentence: str, markdown: str, *, key: str) -> None:
    """Save a Markdown artifact and log its description with a link."""
    artifact_id = await acreate_markdown_artifact(markdown, key=key, description=sentence)
    _log(sentence, key, artifact_id, logging.INFO)


def _log(sentence: str, key: str, artifact_id: UUID, level: int) -> None:
    # `prefect.utilities.urls` has no URLs of artifacts.
    ui = PREFECT_UI_URL.value()
    where = f"{ui}/artifacts/artifact/{artifact_id}" if ui else f"artifact {key}"
    get_run_logger().log(level, "%s. See %s", sentence, where)

"""What a run shows a person: its name, and sentences with tables behind links."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.settings import PREFECT_UI_URL

__all__ = ["run_name", "show_markdown", "show_table"]


def run_name(verb: str, parameter: str) -> Any:
    """A callable that names a task run by its verb and one of its parameters.

    Callables are used for every run name, since Prefect formats a string with the parameters: text
    that was chosen by others could read a secret there.
    """
    return lambda parameters: f"{verb} {parameters[parameter]}"


async def show_table(
    sentence: str, rows: Sequence[Mapping[str, Any]], *, key: str, level: int = logging.INFO
) -> None:
    """Log a sentence and keep it over a table.

    Args:
        sentence: without its full stop.
        rows: the table.
        key: of the artifact.
        level: of the log line.
    """
    table = [dict(row) for row in rows]
    artifact_id = await acreate_table_artifact(table, key=key, description=sentence)
    _log(sentence, key, artifact_id, level)


async def show_markdown(sentence: str, markdown: str, *, key: str) -> None:
    """The same with a text in place of the table."""
    artifact_id = await acreate_markdown_artifact(markdown, key=key, description=sentence)
    _log(sentence, key, artifact_id, logging.INFO)


def _log(sentence: str, key: str, artifact_id: UUID, level: int) -> None:
    # `prefect.utilities.urls` knows no address of an artifact, and the UI has one.
    ui = PREFECT_UI_URL.value()
    where = f"{ui}/artifacts/artifact/{artifact_id}" if ui else f"artifact {key}"
    get_run_logger().log(level, "%s. See %s", sentence, where)

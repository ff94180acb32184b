"""For vendors of session recording: tell Wix which sessions are recorded, or recorded no more."""

from __future__ import annotations

import logging
from typing import Annotated

from prefect import flow
from pydantic import Field

from prefect_wix import SessionsWarehouse, WixAppCredentials, WixCredentials
from prefect_wix.client.models import MarkAction
from prefect_wix.errors import MarkError
from prefect_wix.load.id_source import IdSource
from prefect_wix.load.mark_recordings import MarkSummary
from prefect_wix.tasks.artifacts import show_table
from prefect_wix.tasks.forms import IdFile
from prefect_wix.tasks.recordings import find_unmarked_sessions, mark_many_sessions, plan_many_marks
from prefect_wix.tasks.reports import describe_marks, mark_rows, unmarked_rows

RESULT_KEY = "wix-session-marks"
UNMARKED_KEY = "wix-session-marks-open"


@flow(name="mark-recordings")
async def mark_recordings(
    credentials: WixCredentials | WixAppCredentials,
    warehouse: SessionsWarehouse,
    action: MarkAction,
    file: IdFile | None = None,
    query: str | None = None,
    confirm: bool = False,
    dry_run: bool = False,
    retry_unknown: bool = False,
    calls_in_flight: Annotated[int, Field(ge=1)] = 4,
) -> MarkSummary:
    """Mark sessions as recorded, or their recordings as deleted; each once, however often it runs.

    Args:
        credentials: The Wix credentials block of the site.
        warehouse: The warehouse block (DuckDB or PostgreSQL) that keeps what became of each id.
        action: What Wix is told of each session: that a recording exists, or that it is deleted.
        file: The ids: a .csv, .jsonl, .ndjson or .parquet file with a column session_id, or a .txt
            file with an id on each line. Or give a query instead.
        query: The ids: a SELECT in the warehouse with a column session_id, or a table's name.
        confirm: Must be on to mark recordings as deleted, which can't be taken back.
        dry_run: Count the ids that would be sent, and send none.
        retry_unknown: Also send ids again that were sent before without a reply. Each may have
            been marked then, and Wix does not say what a second mark does.
        calls_in_flight: How many calls may be on their way at once. A run that is killed leaves
            no more than these unknown.
    """
    source = IdSource(file, query)
    if dry_run:
        plan = await plan_many_marks(
            warehouse, credentials.site_id, action, source, retry_unknown=retry_unknown
        )
        return await _show(plan, f"Dry run, {plan.to_send} ids to send. ")
    _check_confirmed(action, confirmed=confirm)
    summary = await mark_many_sessions(
        credentials,
        warehouse,
        action,
        source,
        calls_in_flight=calls_in_flight,
        retry_unknown=retry_unknown,
    )
    await _show(summary)
    if not summary.complete:
        await _show_unmarked(warehouse, summary)
        raise MarkError(_why_incomplete(summary))
    return summary


def _check_confirmed(action: MarkAction, *, confirmed: bool) -> None:
    if action is MarkAction.DELETED and not confirmed:
        raise ValueError(
            "To mark recordings as deleted can't be taken back: set confirm to do it, or dry_run "
            "to see how many it would be. Nothing was sent."
        )


async def _show(summary: MarkSummary, prefix: str = "") -> MarkSummary:
    sentence = f"Site {summary.site_id}: {prefix}{describe_marks(summary)}"
    level = logging.INFO if summary.complete or prefix else logging.WARNING
    await show_table(sentence, mark_rows(summary), key=RESULT_KEY, level=level)
    return summary


async def _show_unmarked(warehouse: SessionsWarehouse, summary: MarkSummary) -> None:
    found = await find_unmarked_sessions(warehouse, summary.site_id, summary.action)
    if found:
        sentence = "Sessions on record as refused or unknown, the latest first"
        await show_table(sentence, unmarked_rows(found), key=UNMARKED_KEY, level=logging.WARNING)


def _why_incomplete(summary: MarkSummary) -> str:
    stopped = f" It stopped: {summary.stopped}" if summary.stopped else ""
    unknown = summary.unknown + summary.unknown_before
    again = " Set retry_unknown to send the unknown ones again." if unknown else ""
    return (
        f"{describe_marks(summary)}; a rerun sends what is not marked and not unknown.{again}"
        f"{stopped}"
    )

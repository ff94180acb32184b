"""Mark sessions as recorded, or their recordings as deleted; for session-recording vendors."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from prefect_wix import SessionsWarehouse, WixAppCredentials, WixCredentials
from prefect_wix.client.models import MarkAction
from prefect_wix.errors import MarkError
from prefect_wix.flows.endings import completed, fails_in_one_line
from prefect_wix.load.id_source import IdSource
from prefect_wix.load.mark_recordings import MarkSummary
from prefect_wix.planning.estimate import counted
from prefect_wix.tasks.artifacts import show_table
from prefect_wix.tasks.forms import IdFile
from prefect_wix.tasks.recordings import find_unmarked_sessions, mark_many_sessions, plan_many_marks
from prefect_wix.tasks.reports import describe_marks, mark_rows, unmarked_rows
from prefect_wix.tasks.run_names import flow_run_name

RESULT_KEY = "wix-session-marks"
UNMARKED_KEY = "wix-session-marks-open"


@flow(name="mark-recordings", flow_run_name=flow_run_name("mark recordings of"))
@fails_in_one_line
async def mark_recordings(
    credentials: WixCredentials | WixAppCredentials,
    warehouse: SessionsWarehouse,
    action: MarkAction,
    file: IdFile = None,
    query: str | None = None,
    confirm: bool = False,
    dry_run: bool = False,
    retry_unknown: bool = False,
    calls_in_flight: Annotated[int, Field(ge=1)] = 4,
) -> MarkSummary:
    """Mark sessions as recorded, or their recordings as deleted; a rerun skips marked sessions.

    Args:
        credentials: The Wix credentials block of the site.
        warehouse: The warehouse block (DuckDB or PostgreSQL) that keeps the mark records.
        action: The mark to make, that a recording exists or that it is deleted.
        file: A .csv, .jsonl, .ndjson or .parquet file with a column session_id, or a .txt file with
            one session ID per line. Set either file or query.
        query: A SELECT in the warehouse with a column session_id, or the name of a table. It can
            read tables only.
        confirm: Required to mark recordings as deleted, which cannot be undone.
        dry_run: Count the IDs that would be sent, and send none.
        retry_unknown: Also send IDs that an earlier run sent without receiving a response. They may
            be marked already, and Wix does not document the effect of a second mark.
        calls_in_flight: The maximum number of concurrent calls. A killed run leaves at most the IDs
            of these calls unknown.
    """
    source = IdSource(file, query)
    if dry_run:
        plan = await plan_many_marks(
            warehouse, credentials.site_id, action, source, retry_unknown=retry_unknown
        )
        return await _show(plan, f"Dry run, {counted(plan.to_send, 'ID')} to send. ")
    if action is MarkAction.DELETED and not confirm:
        raise ValueError(
            "Marking recordings as deleted cannot be undone and needs confirm=true; nothing was "
            "sent. Set confirm=true, or dry_run=true to count the recordings."
        )
    summary = await mark_many_sessions(
        credentials,
        warehouse,
        action,
        source,
        calls_in_flight=calls_in_flight,
        retry_unknown=retry_unknown,
    )
    result = await _show(summary)
    if not summary.complete:
        await _raise_incomplete(warehouse, summary)
    return result


async def _show(summary: MarkSummary, prefix: str = "") -> MarkSummary:
    sentence = f"Site {summary.site_id}: {prefix}{describe_marks(summary)}"
    await show_table(sentence, mark_rows(summary), key=RESULT_KEY)
    return completed(summary, sentence)


async def _raise_incomplete(warehouse: SessionsWarehouse, summary: MarkSummary) -> None:
    found = await find_unmarked_sessions(warehouse, summary.site_id, summary.action)
    if found:
        sentence = "Sessions whose mark was refused or is unknown, newest first"
        await show_table(sentence, unmarked_rows(found), key=UNMARKED_KEY)
    cause = f"{summary.stopped} " if summary.stopped else ""
    unknown = summary.unknown + summary.unknown_before
    retry = " Set retry_unknown=true to send the unknown IDs again." if unknown else ""
    raise MarkError(
        f"{cause}{describe_marks(summary)}. A rerun sends refused and unsent IDs.{retry}"
    )

"""Prefect tasks: one task run per operation, never per poll or page.

Those for flows of your own are here; the others are steps of the package's flows.
"""

import logging
from contextlib import suppress

from prefect import get_run_logger
from prefect.exceptions import MissingContextError

from prefect_wix.errors import WixError
from prefect_wix.tasks.jobs import (
    collect_sessions,
    fetch_session_ids,
    submit_sessions_job,
    wait_for_sessions_job,
)
from prefect_wix.tasks.loads import load_sessions_partitions
from prefect_wix.tasks.recordings import mark_recordings_as_deleted, mark_session_as_recorded

__all__ = [
    "collect_sessions",
    "fetch_session_ids",
    "load_sessions_partitions",
    "mark_recordings_as_deleted",
    "mark_session_as_recorded",
    "submit_sessions_job",
    "wait_for_sessions_job",
]


def _without_traceback(record: logging.LogRecord) -> bool:
    """Log an expected failure in one line: Prefect logs what a run raises with its traceback."""
    is_error = record.levelno >= logging.ERROR
    if is_error and record.exc_info and isinstance(record.exc_info[1], WixError):
        record.exc_info = None
    return True


def _in_run_log(record: logging.LogRecord) -> bool:
    """Log what a warehouse waits for in the log of the run, if there is a run."""
    with suppress(MissingContextError):
        get_run_logger().log(record.levelno, "%s", record.getMessage())
        return False
    return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_without_traceback)
for _name in ("prefect_wix.warehouse.duckdb", "prefect_wix.warehouse.postgres"):
    logging.getLogger(_name).addFilter(_in_run_log)

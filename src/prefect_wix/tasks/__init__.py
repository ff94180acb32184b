"""Prefect tasks: one task run per operation, never per poll or page.

Those for flows of your own are here; the others are steps of the package's flows.
"""

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

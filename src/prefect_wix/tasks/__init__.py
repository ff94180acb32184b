"""Prefect tasks: one task run per operation, never per poll or page."""

from prefect_wix.tasks.jobs import (
    SessionsListing,
    collect_sessions,
    fetch_session_ids,
    submit_sessions_job,
    wait_for_sessions_job,
)
from prefect_wix.tasks.loads import (
    find_site_timezone,
    load_sessions_partitions,
    measure_late_arrivals,
    plan_sessions_load,
)
from prefect_wix.tasks.profiles import (
    compute_session_profiles,
    reconcile_session_counts,
    summarize_session_profiles,
)
from prefect_wix.tasks.recordings import (
    find_unmarked_sessions,
    mark_many_sessions,
    mark_recordings_as_deleted,
    mark_session_as_recorded,
    plan_many_marks,
)
from prefect_wix.tasks.sites import SiteRun

__all__ = [
    "SessionsListing",
    "SiteRun",
    "collect_sessions",
    "compute_session_profiles",
    "fetch_session_ids",
    "find_site_timezone",
    "find_unmarked_sessions",
    "load_sessions_partitions",
    "mark_many_sessions",
    "mark_recordings_as_deleted",
    "mark_session_as_recorded",
    "measure_late_arrivals",
    "plan_many_marks",
    "plan_sessions_load",
    "reconcile_session_counts",
    "submit_sessions_job",
    "summarize_session_profiles",
    "wait_for_sessions_job",
]

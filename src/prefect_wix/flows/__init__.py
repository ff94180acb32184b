"""Prefect flows: deployable pipelines, one file per flow."""

from prefect_wix.flows.list_sessions import list_sessions
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.flows.load_sites import load_sites
from prefect_wix.flows.mark_recordings import mark_recordings
from prefect_wix.flows.profile_sessions import profile_sessions

__all__ = [
    "list_sessions",
    "load_sessions",
    "load_sites",
    "mark_recordings",
    "profile_sessions",
]

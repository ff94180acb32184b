"""A flow on the three verbs: submit a job, wait for it, fetch its session IDs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prefect import flow

from prefect_wix import DeviceType, SessionsQuery, WixCredentials
from prefect_wix.tasks import fetch_session_ids, submit_sessions_job, wait_for_sessions_job


@flow(name="recorded-sessions")
async def recorded_sessions(credentials: WixCredentials, days: int = 1) -> list[str]:
    """The IDs of all sessions of the last complete days (in UTC).

    Args:
        credentials: The Wix credentials block of the site.
        days: How many days.
    """
    today = datetime.now(UTC).date()
    query = SessionsQuery(
        start_date=today - timedelta(days=days),
        end_date=today,
        device_type=DeviceType.ALL,
        timezone="Etc/UTC",
    )
    job = await submit_sessions_job(credentials, query)
    job = await wait_for_sessions_job(credentials, job)
    return await fetch_session_ids(credentials, job)

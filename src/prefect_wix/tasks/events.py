"""The events that a load and a profile emit, and the asset of a site's sessions.

Automations start other deployments on these events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from prefect.assets import Asset, materialize
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from prefect_wix.load.partition_load import PartitionResult
from prefect_wix.planning.partitions import JobState
from prefect_wix.planning.windows import Window
from prefect_wix.profiles.summary import ProfileSummary

LANDED_EVENT = "wix.sessions.landed"
PROFILED_EVENT = "wix.sessions.profiled"


async def emit_landed(site_id: str, window: Window, results: Sequence[PartitionResult]) -> None:
    """Emit ``wix.sessions.landed`` and materialize the site's asset if a partition landed.

    The payload holds plain values that an automation can pass as flow parameters: ``site_id``,
    ``start_date``, ``end_date``, ``timezone``, ``changed_days`` (ISO dates), ``segments``,
    ``versions`` (by day and segment) and the counts ``partitions``, ``failed_partitions``,
    ``sessions``, ``added`` and ``removed``.
    """
    landed = [one for one in results if one.state is JobState.LANDED]
    if not landed:
        return
    changed = {one.partition.day for one in landed}
    payload = _emit(
        LANDED_EVENT,
        site_id,
        replace(window, start=min(window.start, *changed)),
        changed_days=sorted(map(str, changed)),
        segments=sorted({one.partition.segment for one in landed}),
        versions={str(one.partition): one.version for one in landed},
        partitions=len(landed),
        failed_partitions=sum(one.state is JobState.FAILED for one in results),
        sessions=sum(one.sessions for one in landed),
        added=sum(one.added for one in landed),
        removed=sum(one.removed for one in landed),
    )
    asset = Asset(key=f"wix://{site_id}/sessions")

    @materialize(asset, by="prefect-wix", name="materialize sessions", cache_policy=NO_CACHE)
    async def materialize_sessions() -> None:
        asset.add_metadata(payload)

    await materialize_sessions()


def emit_profiled(summary: ProfileSummary, computed_days: Sequence[date]) -> None:
    """Emit ``wix.sessions.profiled`` if profiles of at least one day were computed.

    The payload holds ``site_id``, ``start_date``, ``end_date``, ``timezone``, ``computed_days``
    (ISO dates) and the numbers of ``sessions`` and ``broken`` relations in the window.
    """
    if computed_days:
        _emit(
            PROFILED_EVENT,
            summary.site_id,
            summary.window,
            computed_days=sorted(map(str, computed_days)),
            sessions=summary.sessions,
            broken=len(summary.broken),
        )


def _emit(event: str, site_id: str, window: Window, **counts: Any) -> dict[str, Any]:
    payload = {
        "site_id": site_id,
        "start_date": str(window.start),
        "end_date": str(window.end),
        "timezone": window.timezone,
        **counts,
    }
    site = {"prefect.resource.id": f"wix.site.{site_id}", "prefect.resource.name": site_id}
    emit_event(event=event, resource=site, payload=payload)
    return payload

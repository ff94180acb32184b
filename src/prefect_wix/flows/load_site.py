"""Load one site of an account; `prefect_wix.flows.load_sites` starts a run of it for each."""

from __future__ import annotations

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from prefect_wix import SessionsWarehouse, WixAccountCredentials
from prefect_wix.blocks.shared_limit import add_missing_limit
from prefect_wix.client.models import LocalDay, SiteId
from prefect_wix.flows.endings import completed, fails_in_one_line
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.load.partition_load import PartitionResult
from prefect_wix.planning.plan import Refresh, WhenTooBig
from prefect_wix.planning.segments import DEVICES
from prefect_wix.tasks.forms import SegmentKeys, Timezone


class SiteLoad(BaseModel):
    """The days and segments to load of a site, with the meaning of load_sessions's parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    start_date: LocalDay = Field(default=None, title="Start date")
    """The first local day. Set it together with the end date, or set days instead."""
    end_date: LocalDay = Field(default=None, title="End date (not included)")
    """The day after the last one; it is not included."""
    days: int | None = Field(default=7, ge=1, title="Days")
    """Without dates, the last N complete local days of each site, and missing days before them."""
    lookback_days: int = Field(default=3, ge=0, title="Lookback days")
    """For how many days after its end a day may receive late sessions."""
    segments: SegmentKeys = Field(default=[segment.key for segment in DEVICES], title="Segments")
    """Session filters by key, such as device_type=MOBILE."""
    refresh: Refresh = Refresh.STALE
    """What to load again: nothing (missing), days that may have changed (stale), or all."""
    timezone: Timezone = Field(default=None, title="Time zone")
    """The IANA time zone of the days of all sites. Default is each site's time zone."""
    confirm: bool = Field(default=False, title="Confirm")
    """Load a site even if its estimated requests exceed 5,000."""
    when_too_big: WhenTooBig = Field(default=WhenTooBig.PARTIAL, title="When too big")
    """Without confirm, above 5,000 requests: load the most urgent partitions up to the limit and
    leave the others for the next run (partial), or submit nothing (refuse)."""


@flow(name="load-site")
@fails_in_one_line
async def load_site(
    account: WixAccountCredentials,
    warehouse: SessionsWarehouse,
    site_id: SiteId,
    load: SiteLoad = SiteLoad(),  # noqa: B008
) -> list[PartitionResult]:
    """Load one of the account's sites, within the site's rate limit.

    Args:
        account: The block with the account's API key.
        warehouse: The warehouse block to load into.
        site_id: The site ID, the part of the dashboard's URL after /dashboard/.
        load: The days and segments to load.
    """
    credentials = account.for_site(site_id)
    await add_missing_limit(credentials.site_id, credentials.requests_per_minute)
    state = await load_sessions(credentials, warehouse, **dict(load), return_state=True)
    return completed(await state.aresult(), state.message or "")

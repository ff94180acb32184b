"""One site of an account into the warehouse: what runs, many times over, behind load_sites."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Annotated

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from flows.load_sessions import load_sessions
from prefect_wix import SessionsWarehouse, WixAccountCredentials
from prefect_wix.blocks.shared_limit import add_missing_limit
from prefect_wix.errors import LoadError
from prefect_wix.load.partition_load import PartitionResult
from prefect_wix.planning.plan import Refresh
from prefect_wix.planning.segments import DEVICES
from prefect_wix.tasks.forms import SegmentKeys, Timezone
from prefect_wix.tasks.reports import count_results, describe_load
from prefect_wix.tasks.sites import save_counts


class SiteLoad(BaseModel):
    """What is loaded of each site. Means what the parameters of load_sessions mean."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    start_date: date | None = Field(default=None, title="Start date")
    """First local day. Goes with the end date; or leave both out and give days."""
    end_date: date | None = Field(default=None, title="End date (not included)")
    """The day after the last one."""
    days: int | None = Field(default=7, ge=1, title="Days")
    """Without dates: the last so many complete local days of each site, and what is open before."""
    lookback_days: int = Field(default=3, ge=0, title="Lookback days")
    """For how many days after it is over a day may get late sessions."""
    segments: SegmentKeys = Field(default=[segment.key for segment in DEVICES], title="Segments")
    """Session filters by key, such as device_type=MOBILE."""
    refresh: Refresh = Refresh.STALE
    """What to ask again: nothing (missing), days that may have changed (stale), or all."""
    timezone: Timezone | None = Field(default=None, title="Time zone")
    """IANA zone that the days of all sites are counted in. Left out, each site's own."""
    confirm: bool = Field(default=False, title="Confirm")
    """Start also a site that would take more than 5,000 requests."""


@flow(name="load-site")
async def load_site(
    account: WixAccountCredentials,
    warehouse: SessionsWarehouse,
    site_id: Annotated[str, Field(min_length=1)],
    load: SiteLoad = SiteLoad(),  # noqa: B008
) -> list[PartitionResult]:
    """Load one of the account's sites, within the site's own request budget.

    Args:
        account: The block with the account's key.
        warehouse: The warehouse block to load into.
        site_id: The site's id, as in its dashboard's address after /dashboard/.
        load: Which days and segments.
    """
    credentials = account.for_site(site_id)
    await add_missing_limit(credentials.site_id, credentials.requests_per_minute)
    try:
        outcomes: list[PartitionResult] = await load_sessions(credentials, warehouse, **dict(load))
    except LoadError as error:
        await _tell(site_id, error.outcomes)
        raise
    await _tell(site_id, outcomes)
    return outcomes


async def _tell(site_id: str, outcomes: Sequence[PartitionResult]) -> None:
    await save_counts({"site": site_id, **count_results(outcomes)}, describe_load(outcomes))

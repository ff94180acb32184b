"""What the landed ids mean: a row for each session, and a certificate for each day."""

from __future__ import annotations

import asyncio
import logging
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_link_artifact
from pydantic import Field

from prefect_wix import SessionsWarehouse, WixAppCredentials, WixCredentials
from prefect_wix.client.models import check_timezone
from prefect_wix.errors import CompletenessError
from prefect_wix.planning.windows import choose_window
from prefect_wix.profiles.report import check_report, write_report
from prefect_wix.profiles.summary import ProfileSummary
from prefect_wix.profiles.tables import (
    certificate_rows,
    describe_broken,
    describe_certificate,
    describe_profiles,
    describe_reconciliation,
    device_rows,
    funnel_rows,
    reconciliation_rows,
)
from prefect_wix.tasks.artifacts import show_table
from prefect_wix.tasks.events import emit_profiled
from prefect_wix.tasks.forms import NavigationFlow, ReportFile, Timezone
from prefect_wix.tasks.loads import find_site_timezone
from prefect_wix.tasks.profiles import (
    compute_session_profiles,
    reconcile_session_counts,
    summarize_session_profiles,
)
from prefect_wix.tasks.schedule import scheduled_time

FUNNEL_KEY = "wix-sessions-funnel"
DEVICES_KEY = "wix-sessions-devices"
CERTIFICATE_KEY = "wix-sessions-completeness"
RECONCILIATION_KEY = "wix-sessions-reconciliation"
REPORT_KEY = "wix-sessions-report"
BROKEN_SAID = 20
"""Broken relations that the log spells out; the certificate has them all."""


class OnBroken(StrEnum):
    """What a broken relation between segments does to the run."""

    WARN = "warn"
    """It is said, and the run goes on: Wix documents none of the relations."""
    FAIL = "fail"
    """The run fails, when everything is computed and stored."""


@flow(name="profile-sessions")
async def profile_sessions(
    credentials: WixCredentials | WixAppCredentials,
    warehouse: SessionsWarehouse,
    start_date: date | None = None,
    end_date: date | None = None,
    days: Annotated[int, Field(ge=1)] | None = None,
    timezone: Timezone | None = None,
    site_id: str | None = None,
    flows: dict[str, NavigationFlow] = {},  # noqa: B006
    on_broken: OnBroken = OnBroken.WARN,
    report: ReportFile | None = None,
) -> ProfileSummary:
    """Tell device, deepest funnel step and flows of each landed session, and what is complete.

    Asks Wix for no sessions: it computes in the warehouse, and only the days whose landed segments
    changed since.

    Args:
        credentials: The Wix credentials block of the site, whose time zone and counts are asked.
        warehouse: The warehouse block that sessions were loaded into; DuckDB or PostgreSQL.
        start_date: First local day. Goes with the end date; or give days instead.
        end_date: The day after the last one; it is not included.
        days: Without dates: the last so many complete local days before the scheduled time.
        timezone: IANA zone that days are counted in. Left out, it is the site's own.
        site_id: Whose sessions. Left out, those of the credentials' site; those of another site are
            not compared with Wix's counts.
        flows: Names for navigation flows, such as home_then_left for
            navigation_flow=/{Homepage}>__DROP__.
        on_broken: What a relation does that landed segments contradict.
        report: An .html file to write a report to; needs the report extra. Left out, none.
    """
    as_of = await scheduled_time()
    if timezone is not None:
        check_timezone(timezone)
    if report is not None:
        check_report(report)
    zone = timezone or await find_site_timezone(credentials)
    window = choose_window(start_date, end_date, days, before=as_of, timezone=zone)
    site = site_id or credentials.site_id
    computed = await compute_session_profiles(warehouse, site, window, flows)
    get_run_logger().info("Site %s, %s: %d days computed anew.", site, window, len(computed))
    if site == credentials.site_id:
        await reconcile_session_counts(credentials, warehouse, window)
    summary = await summarize_session_profiles(warehouse, site, window, flows)
    emit_profiled(summary, computed)
    await _show(summary)
    if report is not None:
        await _link(await asyncio.to_thread(write_report, summary, report))
    _tell_what_is_broken(summary, on_broken)
    return summary


async def _show(summary: ProfileSummary) -> None:
    sentence = describe_profiles(summary)
    await show_table(sentence, funnel_rows(summary), key=FUNNEL_KEY)
    sentence = f"{summary.window}: sessions by device"
    await show_table(sentence, device_rows(summary), key=DEVICES_KEY)
    sentence = f"{summary.window}: {describe_certificate(summary)}"
    level = logging.WARNING if summary.broken else logging.INFO
    await show_table(sentence, certificate_rows(summary), key=CERTIFICATE_KEY, level=level)
    if summary.reconciliation:
        sentence = describe_reconciliation(summary)
        await show_table(sentence, reconciliation_rows(summary), key=RECONCILIATION_KEY)


async def _link(report: Path) -> None:
    get_run_logger().info("Wrote %s.", report)
    # The whole path, to be copied: a browser opens no file from a page of a server.
    await acreate_link_artifact(report.as_uri(), link_text=str(report), key=REPORT_KEY)


def _tell_what_is_broken(summary: ProfileSummary, on_broken: OnBroken) -> None:
    for sentence in list(describe_broken(summary))[:BROKEN_SAID]:
        get_run_logger().warning("%s", sentence)
    if summary.broken and on_broken is OnBroken.FAIL:
        raise CompletenessError(
            f"{len(summary.broken)} relations between landed segments are broken; the profiles are "
            f"stored. See the artifact {CERTIFICATE_KEY} or table wix_completeness, and load these "
            f"days again with refresh=all. The first: {next(describe_broken(summary))}"
        )

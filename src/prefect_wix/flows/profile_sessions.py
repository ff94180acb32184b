"""The flow that computes session profiles and completeness certificates of landed sessions.

Its tasks are in `prefect_wix.tasks.profiles`.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

from prefect import flow, get_run_logger
from pydantic import Field

from prefect_wix import SessionsWarehouse, WixAppCredentials, WixCredentials
from prefect_wix.client.models import LocalDay, SiteId
from prefect_wix.errors import CompletenessError
from prefect_wix.flows.endings import completed, fails_in_one_line
from prefect_wix.planning.estimate import counted
from prefect_wix.planning.windows import choose_window
from prefect_wix.profiles import tables
from prefect_wix.profiles.report import check_report, write_report
from prefect_wix.profiles.summary import ProfileSummary
from prefect_wix.tasks.artifacts import show_markdown, show_table
from prefect_wix.tasks.events import emit_profiled
from prefect_wix.tasks.forms import NavigationFlow, ReportFile, Timezone
from prefect_wix.tasks.loads import find_site_timezone
from prefect_wix.tasks.profiles import (
    compute_session_profiles,
    find_site_name,
    reconcile_session_counts,
    summarize_session_profiles,
)
from prefect_wix.tasks.run_names import flow_run_name
from prefect_wix.tasks.schedule import scheduled_time

FUNNEL_KEY = "wix-sessions-funnel"
DEVICES_KEY = "wix-sessions-devices"
CERTIFICATE_KEY = "wix-sessions-completeness"
RECONCILIATION_KEY = "wix-sessions-reconciliation"
REPORT_KEY = "wix-sessions-report"


class OnBroken(StrEnum):
    """The effect of a broken relation between segments on the run."""

    WARN = "warn"
    """Log a warning only, because Wix documents none of the relations."""
    FAIL = "fail"
    """Fail the run after everything is computed and stored."""


@flow(name="profile-sessions", flow_run_name=flow_run_name("profile"))
@fails_in_one_line
async def profile_sessions(
    credentials: WixCredentials | WixAppCredentials,
    warehouse: SessionsWarehouse,
    start_date: LocalDay = None,
    end_date: LocalDay = None,
    days: Annotated[int, Field(ge=1)] | None = None,
    timezone: Timezone = None,
    site_id: SiteId | None = None,
    flows: dict[str, NavigationFlow] = {},  # noqa: B006
    on_broken: OnBroken = OnBroken.WARN,
    report: ReportFile = None,
) -> ProfileSummary:
    """Compute device, deepest funnel step and flows of landed sessions, and check completeness.

    Computes in the warehouse, and only the days whose landed segments changed. Submits no jobs to
    Wix; it reads the site's time zone and session counts.

    Args:
        credentials: The Wix credentials block of the site, for its time zone and session counts.
        warehouse: The warehouse block that sessions were loaded into; DuckDB or PostgreSQL.
        start_date: First local day. Requires the end date; or set days instead.
        end_date: The day after the last one; it is not included.
        days: Without dates: the last N complete local days before the scheduled time.
        timezone: IANA time zone of the days. Default: the site's own.
        site_id: The site to profile. Default: the site of the credentials. Another site is not
            compared with Wix's counts.
        flows: Names for navigation flows, such as `home_then_left` for
            `navigation_flow=/{Homepage}>__DROP__`.
        on_broken: Whether a broken relation between landed segments is a warning or fails the run.
        report: An .html file to write a report to; needs the report extra. Default: no report.
    """
    as_of = await scheduled_time()
    if report is not None:
        report = check_report(report)
    zone = timezone or await find_site_timezone(credentials)
    window = choose_window(start_date, end_date, days, before=as_of, timezone=zone)
    site = site_id or credentials.site_id
    computed = await compute_session_profiles(warehouse, site, window, flows)
    count, total = len(computed), (window.end - window.start).days
    get_run_logger().info("Site %s, %s: recomputed %d of %d days.", site, window, count, total)
    if site == credentials.site_id:
        await reconcile_session_counts(credentials, warehouse, window)
    summary = await summarize_session_profiles(warehouse, site, window, flows)
    emit_profiled(summary, computed)
    await _show(summary)
    if report is not None:
        name = await find_site_name(credentials) if site == credentials.site_id else ""
        written = await asyncio.to_thread(write_report, summary, report, name)
        # The path is text, to be copied: browsers block file links on server pages.
        rows = [{"number": n, "value": v} for n, v in tables.headline(summary).items()]
        await show_table(f"{summary.window}: wrote report {written}", rows, key=REPORT_KEY)
    _report_broken(summary, on_broken)
    return completed(summary, tables.describe_profiles(summary))


async def _show(summary: ProfileSummary) -> None:
    sentence = tables.describe_profiles(summary)
    await show_markdown(sentence, tables.funnel_as_markdown(summary), key=FUNNEL_KEY)
    sentence = f"{summary.window}: sessions by device"
    await show_markdown(sentence, tables.devices_as_markdown(summary), key=DEVICES_KEY)
    sentence = f"{summary.window}: {tables.describe_certificate(summary)}"
    await show_table(sentence, tables.certificate_rows(summary), key=CERTIFICATE_KEY)
    if summary.reconciliation:
        sentence = tables.describe_reconciliation(summary)
        await show_table(sentence, tables.reconciliation_rows(summary), key=RECONCILIATION_KEY)


def _report_broken(summary: ProfileSummary, on_broken: OnBroken) -> None:
    sentences = list(tables.describe_broken(summary))
    if not sentences:
        return
    message = (
        f"{sentences[0]} {counted(len(sentences), 'broken relation')} between landed segments; all "
        f"profiles are stored. See the artifact {CERTIFICATE_KEY} or the table wix_completeness, "
        "and load these days with refresh=all."
    )
    if on_broken is OnBroken.FAIL:
        raise CompletenessError(message)
    get_run_logger().warning("%s", message)

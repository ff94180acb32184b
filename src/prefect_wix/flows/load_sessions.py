"""Load local days of sessions, by segment, into the warehouse.

The many sites of an account are in `prefect_wix.flows.load_sites`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import prefect.runtime
from prefect import flow, get_run_logger
from pydantic import Field

from prefect_wix import SessionsWarehouse, WixAppCredentials, WixCredentials
from prefect_wix.client.models import LocalDay
from prefect_wix.errors import LoadError, LoadLimitError
from prefect_wix.flows.endings import completed, fails_in_one_line
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.load.partition_load import LoadOptions, PartitionResult
from prefect_wix.planning.estimate import Estimate
from prefect_wix.planning.plan import Plan, Refresh, RefreshPolicy, WhenTooBig
from prefect_wix.planning.segments import DEVICES, parse_segments
from prefect_wix.planning.windows import Window, choose_window
from prefect_wix.tasks import reports
from prefect_wix.tasks.artifacts import show_calendar, show_table
from prefect_wix.tasks.events import emit_landed
from prefect_wix.tasks.forms import SegmentKeys, Timezone
from prefect_wix.tasks.loads import (
    find_site_timezone,
    load_sessions_partitions,
    measure_late_arrivals,
    plan_sessions_load,
    raise_if_failed,
)
from prefect_wix.tasks.run_names import flow_run_name
from prefect_wix.tasks.schedule import scheduled_time

PLAN_KEY = "wix-sessions-load-plan"
RESULT_KEY = "wix-sessions-load"
LATE_ARRIVALS_KEY = "wix-sessions-late-arrivals"

AtLeastOne = Annotated[int, Field(ge=1)]


@flow(name="load-sessions", flow_run_name=flow_run_name("load"))
@fails_in_one_line
async def load_sessions(
    credentials: WixCredentials | WixAppCredentials,
    warehouse: SessionsWarehouse,
    start_date: LocalDay = None,
    end_date: LocalDay = None,
    days: AtLeastOne | None = None,
    include_today: bool = False,
    lookback_days: Annotated[int, Field(ge=0)] = 3,
    segments: SegmentKeys = [segment.key for segment in DEVICES],  # noqa: B006
    refresh: Refresh = Refresh.STALE,
    timezone: Timezone = None,
    dry_run: bool = False,
    confirm: bool = False,
    confirm_above: AtLeastOne = 5000,
    when_too_big: WhenTooBig = WhenTooBig.REFUSE,
    jobs_in_flight: AtLeastOne = 16,
    timeout_seconds: Annotated[float, Field(gt=0)] = 3600.0,
) -> list[PartitionResult]:
    """Load local days of sessions into the warehouse, by segment; missing days first.

    Args:
        credentials: The Wix credentials block of the site.
        warehouse: The warehouse block to load into.
        start_date: The first local day. Set it together with the end date, or set days instead.
        end_date: The day after the last one; it is not included.
        days: Without dates, the last N complete local days before the scheduled time, and the
            missing and stale days of the 30 days before them.
        include_today: With days, load the running day too, with the sessions that it has so far.
            Later runs load it again until one has listed it after its end.
        lookback_days: For how many days after its end a day may receive late sessions.
        segments: Session filters by key, such as device_type=MOBILE.
        refresh: What to load again: nothing (missing), days that may have changed (stale), or all.
        timezone: The IANA time zone of the days. Default is the site's time zone.
        dry_run: Show the plan and the estimated cost, and submit nothing.
        confirm: Start the load even if its estimated requests exceed confirm_above.
        confirm_above: The number of estimated requests above which a load needs confirm.
        when_too_big: Without confirm, submit nothing above confirm_above (refuse), or load the most
            urgent partitions up to it and leave the others for the next run (partial).
        jobs_in_flight: The maximum number of jobs that run at Wix at once.
        timeout_seconds: How long one job may take before its partition fails.
    """
    as_of = await scheduled_time()
    zone = timezone or await find_site_timezone(credentials)
    window = choose_window(
        start_date, end_date, days, before=as_of, timezone=zone, include_today=include_today
    )
    partial = when_too_big is WhenTooBig.PARTIAL and not confirm
    policy = RefreshPolicy(refresh, timedelta(lookback_days), as_of, datetime.now(UTC))
    plan, estimate = await plan_sessions_load(
        credentials,
        warehouse,
        window,
        parse_segments(segments),
        policy,
        catch_up=start_date is None,
        max_requests=confirm_above if partial else None,
    )
    await _show_plan(f"Site {credentials.site_id}, {window}", plan, estimate, dry_run=dry_run)
    if dry_run or not plan.to_load:
        return completed([], reports.describe_plan(plan))
    if not confirm and not partial:
        _check_size(estimate, confirm_above)
    poll_policy = PollPolicy(timeout_seconds=timeout_seconds)
    options = LoadOptions(as_of, jobs_in_flight, poll_policy, prefect.runtime.flow_run.id)
    try:
        results = await load_sessions_partitions(credentials, warehouse, [*plan.to_load], options)
    except LoadError as error:
        results = [*error.outcomes]
    await emit_landed(credentials.site_id, window, results)
    await _show_results(results, window, warehouse, credentials.site_id, policy)
    return completed(results, reports.describe_load(results) + reports.describe_postponed(plan))


async def _show_plan(subject: str, plan: Plan, estimate: Estimate, *, dry_run: bool) -> None:
    sentences = f"{subject}: {reports.describe_plan(plan)}. {estimate}".removesuffix(".")
    rows = reports.plan_rows(plan)
    # The result of a whole load has the same rows.
    if dry_run or plan.postponed:
        await show_table(sentences, rows, key=PLAN_KEY)
    else:
        get_run_logger().info("%s", sentences)
    if dry_run:
        for row in rows:
            get_run_logger().info("Would load %(day)s %(segment)s (%(reason)s, 1 job)", row)


def _check_size(estimate: Estimate, confirm_above: int) -> None:
    if estimate.requests.expected > confirm_above:
        raise LoadLimitError(
            f"Estimated {estimate.requests.expected:,} requests exceed "
            f"confirm_above={confirm_above}; nothing was submitted. "
            "Set confirm=true, or when_too_big=partial, or reduce the range."
        )


async def _show_results(
    results: list[PartitionResult],
    window: Window,
    warehouse: SessionsWarehouse,
    site_id: str,
    policy: RefreshPolicy,
) -> None:
    """Show the results; raise a `LoadError` if a partition failed."""
    if len(reports.failures_of(results)) < len(results):
        await show_calendar(warehouse, site_id, window.timezone, policy)
    sentence = f"{window}: {reports.describe_load(results)}"
    await show_table(sentence, reports.result_rows(results), key=RESULT_KEY)
    # Before the warehouse is read once more: it may be the cause.
    raise_if_failed(results)
    if curve := await measure_late_arrivals(warehouse, site_id, window):
        sentence = reports.describe_late_arrivals(curve)
        await show_table(sentence, reports.late_arrival_rows(curve), key=LATE_ARRIVALS_KEY)

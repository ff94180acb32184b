"""What a person is told about a load, a listing, a marking or many sites: sentences and table rows.

Pure functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

from prefect_wix.client.models import MarkAction, MarkOutcome
from prefect_wix.jobs.listing import ListingSummary
from prefect_wix.load.mark_recordings import MarkSummary
from prefect_wix.load.partition_load import PartitionResult
from prefect_wix.planning.late_arrivals import LateArrivals, recommended_lookback
from prefect_wix.planning.partitions import JobState
from prefect_wix.planning.plan import Plan
from prefect_wix.tasks.sites import SiteRun

__all__ = [
    "count_results",
    "describe_late_arrivals",
    "describe_listing",
    "describe_load",
    "describe_marks",
    "describe_plan",
    "describe_site",
    "describe_sites",
    "failures_of",
    "late_arrival_rows",
    "mark_rows",
    "plan_rows",
    "result_rows",
    "site_rows",
    "unmarked_rows",
]

ROWS_SHOWN = 1000
"""As many as a person scrolls through; the sentence above a table counts all."""


def describe_plan(plan: Plan) -> str:
    """One sentence: how many partitions are asked for, why, and how many are left alone."""
    reasons = Counter(reason.value for reason in plan.to_load.values())
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    asked = f"{len(plan.to_load)} partitions to ask for" + (f" ({why})" if why else "")
    not_begun = f", {len(plan.not_begun)} in the future" if plan.not_begun else ""
    return f"{asked}, {len(plan.settled)} settled{not_begun}"


def plan_rows(plan: Plan) -> list[dict[str, Any]]:
    """A row for each partition that is asked for, up to `ROWS_SHOWN`."""
    return [
        {"day": str(partition.day), "segment": partition.segment, "why": reason.value}
        for partition, reason in islice(plan.to_load.items(), ROWS_SHOWN)
    ]


def describe_load(outcomes: Sequence[PartitionResult]) -> str:
    """One sentence: what landed, what stayed as it was, what failed, and what was odd."""
    states = Counter(outcome.state.value for outcome in outcomes)
    parts = [f"{count} {state}" for state, count in sorted(states.items())] or ["nothing to do"]
    sessions = sum(outcome.sessions for outcome in outcomes)
    added, removed = sum(o.added for o in outcomes), sum(o.removed for o in outcomes)
    orphans = sum(outcome.possible_orphans for outcome in outcomes)
    lost = f"; {orphans} possible orphan jobs at Wix" if orphans else ""
    return (
        f"{len(outcomes)} partitions: {', '.join(parts)}; "
        f"{sessions} sessions (+{added}, -{removed}){lost}"
    )


def count_results(outcomes: Sequence[PartitionResult]) -> dict[str, int]:
    """How many partitions a load had, how many failed, and the sessions in the others."""
    return {
        "partitions": len(outcomes),
        "failed": len(failures_of(outcomes)),
        "sessions": sum(outcome.sessions for outcome in outcomes),
        "added": sum(outcome.added for outcome in outcomes),
        "gone": sum(outcome.removed for outcome in outcomes),
    }


def result_rows(outcomes: Sequence[PartitionResult]) -> list[dict[str, Any]]:
    """A row for each partition, up to `ROWS_SHOWN`; what failed comes first."""
    failed_first = sorted(outcomes, key=lambda outcome: outcome.state is not JobState.FAILED)
    return [
        {
            "day": str(outcome.partition.day),
            "segment": outcome.partition.segment,
            "result": outcome.state.value,
            "sessions": outcome.sessions,
            "added": outcome.added,
            "gone": outcome.removed,
            "job": outcome.job_id or "",
            "adopted": "yes" if outcome.adopted else "",
            "reason": outcome.reason or "",
        }
        for outcome in failed_first[:ROWS_SHOWN]
    ]


def describe_late_arrivals(curve: Sequence[LateArrivals]) -> str:
    """One sentence: after how many days nothing was ever seen to change."""
    lookback = recommended_lookback(curve)
    if lookback is None:
        oldest = max((row.age_days for row in curve), default=0)
        return f"Days still change {oldest} days after they are over; look back further to know"
    return f"Nothing was seen to change later than {lookback} days after a day was over"


def late_arrival_rows(curve: Sequence[LateArrivals]) -> list[dict[str, Any]]:
    """A row for each age."""
    return [
        {
            "days after": row.age_days,
            "asked again": row.records,
            "changed": row.changed,
            "added": row.added,
            "gone": row.removed,
        }
        for row in curve
    ]


def failures_of(outcomes: Sequence[PartitionResult]) -> dict[str, str]:
    """Partition -> why it failed."""
    return {
        str(outcome.partition): outcome.reason or "unknown"
        for outcome in outcomes
        if outcome.state is JobState.FAILED
    }


def describe_listing(summary: ListingSummary, *, where: str) -> str:
    """A short Markdown text about one listing."""
    job = summary.job
    by_day = f"from {summary.parts} days, since the job for the whole failed"
    notes = {
        "Asked": str(job.query),
        "Sessions": f"{summary.sessions:,}",
        "Where": where,
        "Job": f"`{job.job_id}` of site `{job.site_id}`, submitted {job.submitted_at:%F %T} UTC",
        "Requests": f"{summary.requests + 1}",
        "Repeats dropped": f"{summary.duplicates:,}" if summary.duplicates else "",
        "Drained": f"{summary.passes} times, since it drifted" if summary.passes > 1 else "",
        "Put together": by_day if summary.parts > 1 else "",
        "Asked again": "yes, since the first job failed" if summary.resubmitted else "",
        "Possible orphans": str(summary.possible_orphans) if summary.possible_orphans else "",
    }
    rows = [f"| {name} | {text} |" for name, text in notes.items() if text]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def describe_site(run: SiteRun) -> str:
    """One sentence: which site, how its run ended, and why where it is not complete."""
    end = f"{run.sessions} sessions" if run.completed else run.reason
    return f"{run.site}: {run.state}, {end}"


def describe_sites(runs: Sequence[SiteRun]) -> str:
    """One sentence: how many sites were loaded, how many were not, and the sessions of all."""
    failed = sum(not run.completed for run in runs)
    sessions = sum(run.sessions for run in runs)
    return f"{len(runs)} sites: {len(runs) - failed} loaded, {failed} failed; {sessions} sessions"


def site_rows(runs: Sequence[SiteRun]) -> list[dict[str, Any]]:
    """A row for each site, up to `ROWS_SHOWN`; what failed comes first."""
    failed_first = sorted(runs, key=lambda run: run.completed)
    return [
        {
            "site": run.site.id,
            "name": run.site.name,
            "state": run.state,
            "run": run.run,
            "sessions": run.sessions,
            "failed partitions": run.failed_partitions,
            "reason": run.reason,
        }
        for run in failed_first[:ROWS_SHOWN]
    ]


def describe_marks(summary: MarkSummary) -> str:
    """One sentence: how many ids are marked, how many were before, and what is left."""
    what = {
        MarkAction.RECORDED: "sessions marked as recorded",
        MarkAction.DELETED: "recordings marked as deleted",
    }[summary.action]
    parts = {row["result"]: row["ids"] for row in mark_rows(summary)[1:]}
    rest = "".join(f", {ids} {result}" for result, ids in parts.items() if ids)
    return f"{summary.done} of {summary.wanted} {what}{rest}"


def mark_rows(summary: MarkSummary) -> list[dict[str, Any]]:
    """A row for each thing that can become of an id, with how many ids it became of."""
    before = "marked in an earlier run"
    rows = (
        ("marked", summary.done, "Wix confirmed it."),
        ("of them marked already", summary.already, "Wix answered 409: it was marked before."),
        (before, summary.done_before, "Passed over."),
        ("unknown since an earlier run", summary.unknown_before, "Ask again: retry_unknown."),
        ("refused", summary.refused, "A rerun asks again."),
        ("unknown", summary.unknown, "The reply was lost; it may be marked."),
        ("not sent", summary.not_sent, summary.stopped or "A rerun sends it."),
    )
    return [{"result": result, "ids": ids, "what it means": means} for result, ids, means in rows]


def unmarked_rows(outcomes: Sequence[MarkOutcome]) -> list[dict[str, Any]]:
    """A row for each id that is not marked, up to `ROWS_SHOWN`."""
    return [
        {
            "session": session_id,
            "state": outcome.state.value,
            "reason": outcome.reason or "",
            "request id": outcome.request_id or "",
        }
        for outcome in outcomes[:ROWS_SHOWN]
        for session_id in outcome.session_ids
    ]

"""Texts and table rows for the artifacts of a load, a listing, a marking and many sites.

Pure functions; `prefect_wix.tasks.artifacts` saves the artifacts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from prefect_wix.client.models import MarkAction, MarkOutcome
from prefect_wix.jobs.listing import ListingSummary
from prefect_wix.load.mark_recordings import MarkSummary
from prefect_wix.load.partition_load import PartitionResult
from prefect_wix.planning.estimate import counted
from prefect_wix.planning.late_arrivals import LateArrivals, recommended_lookback
from prefect_wix.planning.partitions import JobState
from prefect_wix.planning.plan import Plan
from prefect_wix.tasks.sites import SiteRun

ROWS_SHOWN = 1000
"""The maximum number of rows of a table; the description of the table counts all."""


def describe_plan(plan: Plan) -> str:
    """One sentence: the numbers of partitions to load by reason, left, settled, and in the future.

    Partitions are left for the next run by a partial load.
    """
    counts = Counter(reason.value for reason in plan.to_load.values())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
    to_load = f"{counted(len(plan.to_load), 'partition')} to load" + (reasons and f" ({reasons})")
    not_begun = f", {len(plan.not_begun):,} in the future" if plan.not_begun else ""
    left = f", {len(plan.postponed):,} left for the next run" if plan.postponed else ""
    return f"{to_load}{left}, {len(plan.settled):,} settled{not_begun}"


def plan_rows(plan: Plan) -> list[dict[str, Any]]:
    """A row for each partition to load, then for each one that is left, up to `ROWS_SHOWN`."""
    left = {one: f"{reason.value}, left for the next run" for one, reason in plan.postponed.items()}
    reasons = {one: reason.value for one, reason in plan.to_load.items()} | left
    return [
        {"day": str(partition.day), "segment": partition.segment, "reason": reason}
        for partition, reason in islice(reasons.items(), ROWS_SHOWN)
    ]


def describe_postponed(plan: Plan) -> str:
    """The end of a sentence: what a partial load left for the next run; empty if it is whole.

    The artifact of the plan names each of them.
    """
    if not plan.postponed:
        return ""
    days = [partition.day for partition in plan.postponed]
    left = counted(len(days), "partition")
    return f". Partial load: {left} of {min(days)} to {max(days)} left for the next run"


def describe_load(results: Sequence[PartitionResult]) -> str:
    """One sentence: the numbers of partitions by state, of sessions, and of possible orphans."""
    states = Counter(result.state.value for result in results)
    parts = [f"{count:,} {state}" for state, count in sorted(states.items())] or ["nothing to do"]
    sessions = counted(sum(result.sessions for result in results), "session")
    added, removed = sum(one.added for one in results), sum(one.removed for one in results)
    orphans = sum(result.possible_orphans for result in results)
    suffix = f"; {counted(orphans, 'possible orphan job')} at Wix" if orphans else ""
    partitions = f"{counted(len(results), 'partition')}: {', '.join(parts)}"
    return f"{partitions}; {sessions} (+{added:,}, -{removed:,}){suffix}"


def loading_progress(
    ended: Sequence[PartitionResult], total: int, at_wix: int, requests_left: int
) -> tuple[float, str]:
    """The completed share of a load in partitions, 0 to 1, and its progress as text."""
    failed = len(failures_of(ended))
    sessions = counted(sum(result.sessions for result in ended), "session")
    sentence = (
        f"{len(ended):,} of {counted(total, 'partition')} ({failed:,} failed), {sessions}, "
        f"{counted(at_wix, 'job')} running, {counted(requests_left, 'request')} left in this minute"
    )
    return len(ended) / max(total, 1), sentence


def result_rows(results: Sequence[PartitionResult]) -> list[dict[str, Any]]:
    """A row for each partition, up to `ROWS_SHOWN`, the failed ones first."""
    failed_first = sorted(results, key=lambda result: result.state is not JobState.FAILED)
    return [
        {
            "day": str(result.partition.day),
            "segment": result.partition.segment,
            "result": result.state.value,
            "reason": result.reason or "",
            "sessions": result.sessions,
            "added": result.added,
            "removed": result.removed,
            "job": result.job_id or "",
            "adopted": "yes" if result.adopted else "",
        }
        for result in failed_first[:ROWS_SHOWN]
    ]


def describe_late_arrivals(curve: Sequence[LateArrivals]) -> str:
    """One sentence: the age in days after which no reload found a change."""
    lookback = recommended_lookback(curve)
    if lookback is None:
        oldest = max((row.age_days for row in curve), default=0)
        age = counted(oldest, "day")
        return f"Too few reloads to recommend lookback_days (oldest: {age}); increase it"
    return f"No reload found a change later than {counted(lookback, 'day')} after the end of a day"


def late_arrival_rows(curve: Sequence[LateArrivals]) -> list[dict[str, Any]]:
    """A row for each age, with the changes that reloads found."""
    return [asdict(row) for row in curve]


def failures_of(results: Sequence[PartitionResult]) -> dict[str, str]:
    """The failed partitions as text, each with its reason."""
    return {
        str(result.partition): result.reason or "unknown"
        for result in results
        if result.state is JobState.FAILED
    }


def describe_listing(summary: ListingSummary, *, where: str) -> str:
    """A Markdown table about one listing."""
    job, parts, passes = summary.job, summary.parts, summary.passes
    rows = {
        "Query": str(job.query),
        "Sessions": f"{summary.sessions:,}",
        "Where": where,
        "Job": f"`{job.job_id}` of site `{job.site_id}`, submitted {job.submitted_at:%F %T} UTC",
        "Requests": f"{summary.requests + 1}",
        "Duplicates dropped": f"{summary.duplicates:,}" if summary.duplicates else "",
        "Passes": f"{passes}, since the listing drifted" if passes > 1 else "",
        "Split window": f"{parts} days, since the job for the window failed" if parts > 1 else "",
        "Resubmitted": "yes, since the first job failed" if summary.resubmitted else "",
        "Possible orphans": str(summary.possible_orphans) if summary.possible_orphans else "",
    }
    lines = [f"| {name} | {text} |" for name, text in rows.items() if text]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def describe_sites(runs: Sequence[SiteRun]) -> str:
    """One sentence: the numbers of sites loaded and failed."""
    failed = sum(not run.completed for run in runs)
    return f"{counted(len(runs), 'site')}: {len(runs) - failed:,} loaded, {failed:,} failed"


def site_rows(runs: Sequence[SiteRun]) -> list[dict[str, Any]]:
    """A row for each site, up to `ROWS_SHOWN`, the failed ones first."""
    failed_first = sorted(runs, key=lambda run: run.completed)
    return [
        {
            "site": run.site.id,
            "name": run.site.name,
            "state": run.state,
            "result": run.reason,
            "run": run.run,
        }
        for run in failed_first[:ROWS_SHOWN]
    ]


def describe_marks(summary: MarkSummary) -> str:
    """One sentence: the numbers of IDs marked, marked before, and not marked."""
    noun, mark = {
        MarkAction.RECORDED: ("session", "recorded"),
        MarkAction.DELETED: ("recording", "deleted"),
    }[summary.action]
    counts = {row["result"]: row["ids"] for row in mark_rows(summary)[1:]}
    rest = "".join(f", {ids:,} {result}" for result, ids in counts.items() if ids)
    return f"{summary.done:,} of {counted(summary.wanted, noun)} marked as {mark}{rest}"


def marking_progress(summary: MarkSummary) -> tuple[float, str]:
    """The completed share of a marking in session IDs, 0 to 1, and its progress as text."""
    return 1 - summary.not_sent / max(summary.to_send, 1), describe_marks(summary)


def mark_rows(summary: MarkSummary) -> list[dict[str, Any]]:
    """A row for each result that an ID can have, with the number of IDs."""
    again = "Skipped; retry_unknown sends it again."
    rows = (
        ("marked", summary.done, "Wix confirmed it."),
        ("of these already marked", summary.already, "Wix returned 409: it was marked before."),
        ("marked in an earlier run", summary.done_before, "Skipped."),
        ("unknown since an earlier run", summary.unknown_before, again),
        ("refused", summary.refused, "A rerun sends it again."),
        ("unknown", summary.unknown, "The response was lost; it may be marked."),
        ("not sent", summary.not_sent, summary.stopped or "A rerun sends it."),
    )
    return [{"result": result, "ids": ids, "meaning": meaning} for result, ids, meaning in rows]


def unmarked_rows(outcomes: Sequence[MarkOutcome]) -> list[dict[str, Any]]:
    """A row for each ID that is not marked, up to `ROWS_SHOWN`."""
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

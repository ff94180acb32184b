"""What a person is told about profiled days: sentences and table rows. Pure functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from typing import Any

from prefect_wix.profiles.summary import (
    CertificateRow,
    ProfileSummary,
    RelationState,
)

__all__ = [
    "certificate_rows",
    "describe_broken",
    "describe_certificate",
    "describe_profiles",
    "describe_reconciliation",
    "device_rows",
    "funnel_rows",
    "reconciliation_rows",
]

ROWS_SHOWN = 1000
"""As many as a person scrolls through; the sentence above a table counts all."""
_ORDER = (RelationState.BROKEN, RelationState.NOT_TESTABLE, RelationState.HELD)


def describe_profiles(summary: ProfileSummary) -> str:
    """One sentence: how many sessions, and how many of them are odd in which way."""
    kinds = ", ".join(f"{one.sessions:,} {one.kind.replace('_', ' ')}" for one in summary.kinds)
    return f"{summary.window}: {summary.sessions:,} sessions{': ' if kinds else ''}{kinds}"


def funnel_rows(summary: ProfileSummary) -> list[dict[str, Any]]:
    """A row for each step, with its share of the first step and of the step before."""
    counts = [one.sessions for one in summary.funnel]
    return [
        {
            "step": one.step,
            "sessions": one.sessions,
            "of all": _percent(one.sessions, counts[0]),
            "of the step before": _percent(one.sessions, before),
        }
        for one, before in zip(summary.funnel, counts[:1] + counts, strict=False)
    ]


def device_rows(summary: ProfileSummary) -> list[dict[str, Any]]:
    """A row for each day, with every device's share of the day's sessions; newest first."""
    days: defaultdict[date, dict[str, int]] = defaultdict(dict)
    for one in summary.devices:
        days[one.day][one.device] = one.sessions
    devices = sorted({one.device for one in summary.devices})
    return [
        {
            "day": str(day),
            "sessions": sum(counts.values()),
            **{name: _percent(counts.get(name, 0), sum(counts.values())) for name in devices},
        }
        for day, counts in sorted(days.items(), reverse=True)[:ROWS_SHOWN]
    ]


def describe_certificate(summary: ProfileSummary) -> str:
    """One sentence: how many relations held, broke and could not be tested."""
    states = summary.states
    return ", ".join(f"{states[state]} {state}" for state in RelationState)


def describe_broken(summary: ProfileSummary) -> Iterator[str]:
    """A sentence for each broken relation of each day."""
    for row in summary.broken:
        exceptions = f": {row.exceptions} of {row.sessions} ids contradict it, such as"
        examples = f"{exceptions} {', '.join(row.examples)}" if row.examples else ""
        yield f"{row.day}: broken: {row.description}{examples}."


def certificate_rows(summary: ProfileSummary) -> list[dict[str, Any]]:
    """A row for each relation of each day, up to `ROWS_SHOWN`; what is broken comes first."""
    rows = sorted(summary.certificate, key=lambda row: _ORDER.index(row.state))
    return [_certificate_row(row) for row in rows[:ROWS_SHOWN]]


def _certificate_row(row: CertificateRow) -> dict[str, Any]:
    return {
        "day": str(row.day),
        "relation": row.description,
        "state": row.state.value,
        "ids": row.sessions,
        "exceptions": row.exceptions,
        "examples": ", ".join(row.examples),
        "missing": ", ".join(row.missing),
    }


def describe_reconciliation(summary: ProfileSummary) -> str:
    """One sentence: what is landed beside what Wix counted."""
    landed = sum(row.landed for row in summary.reconciliation)
    counted = sum(row.counted for row in summary.reconciliation)
    days = len(summary.reconciliation)
    return (
        f"{days} days: {landed:,} landed, {counted:,} counted by Wix ({_percent(landed, counted)})"
    )


def reconciliation_rows(summary: ProfileSummary) -> list[dict[str, Any]]:
    """A row for each day that Wix has counted, newest first."""
    return [
        {
            "day": str(row.day),
            "landed": row.landed,
            "counted by Wix": row.counted,
            "ratio": "" if row.ratio is None else f"{row.ratio:.3f}",
            "trend": "" if row.trend is None else f"{row.trend:+.3f}",
        }
        for row in reversed(summary.reconciliation)
    ]


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""

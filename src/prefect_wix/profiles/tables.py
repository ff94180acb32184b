"""Sentences and table rows of a profile summary, for logs and artifacts. Pure functions.

The HTML report is in `report`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from typing import Any

from prefect_wix.client.models import DeviceType, FunnelStep
from prefect_wix.planning.estimate import counted
from prefect_wix.profiles.summary import ProfileSummary, RelationState

ROWS_SHOWN = 1000
"""Most rows of a table; the sentence above it counts all rows."""
_BAR_LENGTH = 20
_BLOCKS = "█▓▒░"
"""One for each device, and for sessions without one."""
_ORDER = (RelationState.BROKEN, RelationState.NOT_TESTABLE, RelationState.HELD)


def describe_profiles(summary: ProfileSummary) -> str:
    """One sentence: the number of sessions, and of each kind."""
    kinds = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in summary.kinds.items())
    return f"{summary.window}: {counted(summary.sessions, 'session')}{kinds and f': {kinds}'}"


def funnel_as_markdown(summary: ProfileSummary) -> str:
    """The funnel as a table with bars; without one, the segments to load for it."""
    if summary.funnel:
        return _as_markdown(funnel_rows(summary))
    segments = ", ".join(f"`conversion_funnel=+{step}`" for step in FunnelStep)
    return f"No step of the funnel is loaded. Load the segments {segments}."


def devices_as_markdown(summary: ProfileSummary) -> str:
    """The shares of the devices by day as a table with bars."""
    return _as_markdown(device_rows(summary)) if summary.devices else "No device is loaded."


def _as_markdown(rows: list[dict[str, Any]]) -> str:
    cells = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    texts = ([f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in texts)


def headline(summary: ProfileSummary) -> dict[str, str]:
    """The numbers that an analyst reads first, by name; those without data are left out."""
    landed = len({day for days in summary.calendar.values() for day in days})
    mobile = sum(one.sessions for one in summary.devices if one.device == DeviceType.MOBILE)
    numbers = {
        "Sessions": f"{summary.sessions:,}",
        "Sessions a day": f"{summary.sessions / max(landed, 1):,.0f}",
        "On mobile": percent(mobile, summary.sessions),
        "Days landed": f"{landed:,} of {(summary.window.end - summary.window.start).days:,}",
    }
    for row in funnel_rows(summary)[1:]:
        numbers[row["step"].replace("_", " ").capitalize()] = row["of all"]
    return {name: number for name, number in numbers.items() if number}


def funnel_rows(summary: ProfileSummary) -> list[dict[str, Any]]:
    """One row per step, with its share of the first step and of the step before."""
    counts = list(summary.funnel.values())
    return [
        {
            "step": step,
            "sessions": sessions,
            "of all": percent(sessions, counts[0]),
            "of the step before": percent(sessions, before),
            "": _BLOCKS[0] * round(_BAR_LENGTH * sessions / max(counts[0], 1)),
        }
        for (step, sessions), before in zip(
            summary.funnel.items(), counts[:1] + counts, strict=False
        )
    ]


def device_rows(summary: ProfileSummary) -> list[dict[str, Any]]:
    """One row per day, newest first, with each device's share of the day's sessions."""
    days: defaultdict[date, dict[str, int]] = defaultdict(dict)
    for one in summary.devices:
        days[one.day][one.device] = one.sessions
    devices = sorted({one.device for one in summary.devices})
    blocks = dict(zip(devices, _BLOCKS, strict=False))
    legend = " ".join(f"{block} {name}" for name, block in blocks.items())
    return [
        {
            "day": str(day),
            "sessions": sum(counts.values()),
            **{name: percent(counts.get(name, 0), sum(counts.values())) for name in devices},
            legend: "".join(
                block * round(_BAR_LENGTH * counts.get(name, 0) / sum(counts.values()))
                for name, block in blocks.items()
            ),
        }
        for day, counts in sorted(days.items(), reverse=True)[:ROWS_SHOWN]
    ]


def describe_certificate(summary: ProfileSummary) -> str:
    """The number of relations in each state, such as 20 held, 1 broken, 0 not testable."""
    return ", ".join(f"{summary.states[state]} {state}" for state in RelationState)


def describe_broken(summary: ProfileSummary) -> Iterator[str]:
    """One sentence per broken relation and day."""
    for row in summary.broken:
        exceptions = f": contradicted by {row.exceptions:,} of {row.sessions:,} IDs, for example"
        examples = f"{exceptions} {', '.join(row.examples)}" if row.examples else ""
        yield f"{row.day}: broken: {row.description}{examples}."


def certificate_rows(summary: ProfileSummary) -> list[dict[str, Any]]:
    """One row per relation and day, broken ones first, at most `ROWS_SHOWN`."""
    rows = sorted(summary.certificate, key=lambda row: _ORDER.index(row.state))
    return [
        {
            "day": str(row.day),
            "relation": row.description,
            "state": row.state.value,
            "ids": row.sessions,
            "exceptions": row.exceptions,
            "examples": ", ".join(row.examples),
            "missing": ", ".join(row.missing),
        }
        for row in rows[:ROWS_SHOWN]
    ]


def describe_reconciliation(summary: ProfileSummary) -> str:
    """One sentence: the landed sessions and Wix's count."""
    rows = summary.reconciliation
    landed, by_wix = sum(row.landed for row in rows), sum(row.counted for row in rows)
    counts = f"{landed:,} landed, {by_wix:,} counted by Wix ({percent(landed, by_wix)})"
    return f"{counted(len(rows), 'day')}: {counts}"


def reconciliation_rows(summary: ProfileSummary) -> list[dict[str, Any]]:
    """One row per day that Wix counted, newest first."""
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


def percent(part: int, whole: int) -> str:
    """The share of a whole, such as 17.5%; empty without a whole."""
    return f"{part / whole:.1%}" if whole else ""

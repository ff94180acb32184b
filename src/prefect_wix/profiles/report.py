"""The summary of some profiled days as one HTML file: no network, light and dark, any width.

What stands in it is chosen here, how it looks in ``report.html.jinja``, its pictures in `charts`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, timedelta
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect_wix.errors import OutputError
from prefect_wix.extras import import_extra
from prefect_wix.profiles.charts import (
    chart_script,
    devices_chart,
    funnel_chart,
    reconciliation_chart,
)
from prefect_wix.profiles.expressions import Kind
from prefect_wix.profiles.summary import (
    CertificateRow,
    FunnelStepCount,
    ProfileSummary,
    ReconciliationRow,
    RelationState,
)

__all__ = ["check_report", "write_report"]

ROWS_SHOWN = 200
"""Broken relations that are listed, as many as a person scrolls through."""


def check_report(path: Path) -> None:
    """Refuse a report that could not be written, before anything is computed for it.

    Raises:
        OutputError: the path is a folder.
        MissingExtraError: what draws it is not installed.
    """
    import_extra("jinja2", extra="report", what_for="A report")
    import_extra("plotly", extra="report", what_for="A report")
    if os.path.isdir(path):  # noqa: PTH112 - the method raises for a name that is too long
        raise OutputError(f"report {str(path)!r} is a folder; name an .html file in it.")


def write_report(summary: ProfileSummary, path: Path) -> Path:
    """Write the report; replaces a file that is there, at once and whole.

    Args:
        summary: of one site and one window.
        path: where; folders are made.

    Returns:
        The path, absolute.

    Raises:
        OutputError: the file can't be written; what was there is still there.
        MissingExtraError: what draws it is not installed.
    """
    check_report(path)
    draft = path.with_name(f".{uuid4().hex}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(_render(summary), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise OutputError(
            f"report {str(path)!r} can't be written ({error.strerror}). Check the path, the rights "
            "and the free space; a report that was there is untouched."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink()
    return path.absolute()


def _render(summary: ProfileSummary) -> str:
    jinja2 = import_extra("jinja2", extra="report", what_for="A report")
    # Ids and the names of flows are whatever somebody wrote: every text is escaped.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = resources.files(__package__).joinpath("report.html.jinja").read_text("utf-8")
    html: str = environment.from_string(source).render(
        _heading(summary) | _certificate(summary) | _counts(summary),
        charts=_charts(summary),
        script=chart_script(),
    )
    return html


def _charts(summary: ProfileSummary) -> dict[str, str]:
    """The pictures that there is something to draw of."""
    funnel, devices, counts = summary.funnel, summary.devices, summary.reconciliation
    return {
        "funnel": funnel_chart(funnel) if funnel else "",
        "devices": devices_chart(devices) if devices else "",
        "reconciliation": reconciliation_chart(counts) if counts else "",
    }


def _heading(summary: ProfileSummary) -> dict[str, Any]:
    window, last_day = summary.window, summary.window.end - timedelta(days=1)
    one_day = last_day == window.start
    return {
        "site_id": summary.site_id,
        "window": window,
        "last_day": last_day,
        "days_text": f"{_day(window.start)}"
        if one_day
        else f"{window.start:%-d %b} to {_day(last_day)}",
        "computed_at": f"{summary.computed_at.astimezone(UTC):%-d %b %Y, %H:%M}",
        "figures": _figures(summary),
    }


def _figures(summary: ProfileSummary) -> list[tuple[str, str]]:
    """What a reader wants to know first."""
    last = summary.funnel[-1] if summary.funnel else None
    converted = [("Converted", _share(last.sessions, summary.sessions))] if last else []
    states = summary.states
    return [
        ("Sessions", f"{summary.sessions:,}"),
        ("Days", str((summary.window.end - summary.window.start).days)),
        *converted,
        ("Relations held", f"{states[RelationState.HELD]:,}"),
        ("Relations broken", f"{states[RelationState.BROKEN]:,}"),
        ("Not testable", f"{states[RelationState.NOT_TESTABLE]:,}"),
    ]


def _counts(summary: ProfileSummary) -> dict[str, Any]:
    total = summary.sessions
    return {
        "funnel": _funnel(summary.funnel),
        "devices": summary.devices,
        "flows": [
            {**_row(one.flow, one.sessions, total), "days": one.days} for one in summary.flows
        ],
        "odd": [
            _row(_ODD.get(one.kind, one.kind), one.sessions, total)
            for one in summary.kinds
            if one.kind != Kind.REGULAR and one.sessions
        ],
        "reconciliation": [_reconciled(row) for row in summary.reconciliation],
    }


_ODD: dict[str, str] = {
    Kind.TWO_DEVICES: "Listed under more than one device",
    Kind.OUTSIDE_ALL: "Listed by a segment, but not among all sessions",
    Kind.BROKEN_FUNNEL: "Reached a step, but not one before it",
    Kind.NO_DEVICE: "On no device",
    Kind.ON_TWO_DAYS: "Listed on two days that follow each other: a visit over midnight",
}


def _funnel(steps: Sequence[FunnelStepCount]) -> list[dict[str, str]]:
    before = [steps[0], *steps] if steps else []
    return [
        {
            **_row(step.step.replace("_", " ").capitalize(), step.sessions, steps[0].sessions),
            "of_before": _share(step.sessions, previous.sessions),
        }
        for step, previous in zip(steps, before, strict=False)
    ]


def _row(name: str, sessions: int, total: int) -> dict[str, Any]:
    return {"name": name, "sessions": f"{sessions:,}", "of_all": _share(sessions, total)}


def _reconciled(row: ReconciliationRow) -> dict[str, str]:
    return {
        "day": _day(row.day),
        "landed": f"{row.landed:,}",
        "counted": f"{row.counted:,}",
        "ratio": "" if row.ratio is None else f"{row.ratio:.3f}",
        "trend": "" if row.trend is None else f"{row.trend:+.3f}",
    }


def _certificate(summary: ProfileSummary) -> dict[str, Any]:
    missing = Counter(what for row in summary.certificate for what in row.missing)
    return {
        "verdict": _verdict(summary),
        "relations": _relations(summary.certificate),
        "broken": [
            {
                "day": _day(row.day),
                "description": row.description,
                "exceptions": f"{row.exceptions:,}",
                "examples": row.examples,
            }
            for row in summary.broken
        ],
        "missing": missing.most_common(),
        "shown": ROWS_SHOWN,
    }


def _relations(rows: Sequence[CertificateRow]) -> list[dict[str, Any]]:
    """Each relation once, with the number of days in each state."""
    names = dict.fromkeys((row.relation, row.description) for row in rows)
    states = Counter((row.relation, row.state) for row in rows)
    compared: Counter[str] = Counter()
    for row in rows:
        compared[row.relation] += row.sessions
    return [
        {
            "description": description,
            "states": [(one.value, states[name, one]) for one in _WORST_FIRST if states[name, one]],
            "sessions": f"{compared[name]:,}",
        }
        for name, description in names
    ]


_WORST_FIRST = (RelationState.BROKEN, RelationState.HELD, RelationState.NOT_TESTABLE)


def _verdict(summary: ProfileSummary) -> str:
    states = summary.states
    tested = states[RelationState.HELD] + states[RelationState.BROKEN]
    if not tested:
        return "Nothing could be tested: the segments that relations speak of are not landed."
    if summary.broken:
        return (
            f"{len(summary.broken):,} of {tested:,} tests found ids that contradict a relation. "
            "Wix documents none of the relations, so look before you distrust the data."
        )
    return f"All {tested:,} tests held: no id contradicts another segment of its day."


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _day(day: date) -> str:
    return f"{day:%-d %b %Y}"

"""A profile summary as one HTML file that needs no network, in light and dark, at any width.

The values are prepared here; the page is in ``report.html.jinja``, the charts are in `charts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

from prefect_wix.errors import import_extra
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
from prefect_wix.spool.files import check_output_file, replaced_file

ROWS_SHOWN = 200
"""Most broken relations that the report lists."""


def check_report(path: Path) -> Path:
    """Check that a report can be written, before anything is computed for it.

    Returns:
        The path, with the home folder in the place of ``~``.

    Raises:
        OutputError: the file can't be written.
        MissingExtraError: the ``report`` extra is not installed.
    """
    import_extra("jinja2", extra="report", what_for="A report")
    import_extra("plotly", extra="report", what_for="A report")
    return check_output_file(path, "report")


def write_report(summary: ProfileSummary, path: Path) -> Path:
    """Write the report, replacing an existing file atomically.

    Args:
        summary: the profiles of one site and window.
        path: the file; missing folders are created.

    Returns:
        The absolute path.

    Raises:
        OutputError: the file can't be written; an existing file is unchanged.
        MissingExtraError: the ``report`` extra is not installed.
    """
    path = check_report(path)
    with replaced_file(path, "report") as draft:
        draft.write_text(_render(summary), encoding="utf-8")
    return path.absolute()


def _render(summary: ProfileSummary) -> str:
    jinja2 = import_extra("jinja2", extra="report", what_for="A report")
    # IDs and flow names are untrusted text, so every value is escaped.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = resources.files(__package__).joinpath("report.html.jinja").read_text("utf-8")
    html: str = environment.from_string(source).render(
        _heading(summary) | _certificate(summary) | _counts(summary),
        charts=_charts(summary),
        script=chart_script(),
    )
    return html


def _charts(summary: ProfileSummary) -> dict[str, str]:
    """The HTML of each chart; empty for a chart without data."""
    funnel, devices, counts = summary.funnel, summary.devices, summary.reconciliation
    return {
        "funnel": funnel_chart(funnel) if funnel else "",
        "devices": devices_chart(devices) if devices else "",
        "reconciliation": reconciliation_chart(counts) if counts else "",
    }


def _heading(summary: ProfileSummary) -> dict[str, Any]:
    window, last_day = summary.window, summary.window.end - timedelta(days=1)
    first = "" if last_day == window.start else f"{window.start:%-d %b} to "
    return {
        "site_id": summary.site_id,
        "window": window,
        "last_day": last_day,
        "days_text": f"{first}{_day(last_day)}",
        "computed_at": f"{summary.computed_at.astimezone(UTC):%-d %b %Y, %H:%M}",
        "figures": _figures(summary),
    }


def _figures(summary: ProfileSummary) -> list[tuple[str, str]]:
    """Label and value of each headline figure."""
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
        "irregular": [
            _row(_IRREGULAR.get(one.kind, one.kind), one.sessions, total)
            for one in summary.kinds
            if one.kind != Kind.REGULAR and one.sessions
        ],
        "reconciliation": [_reconciled(row) for row in summary.reconciliation],
    }


_IRREGULAR: dict[str, str] = {
    Kind.TWO_DEVICES: "Listed under more than one device",
    Kind.OUTSIDE_ALL: "Listed in a segment, but not among all sessions",
    Kind.BROKEN_FUNNEL: "Reached a step without an earlier step",
    Kind.NO_DEVICE: "Listed under no device",
    Kind.ON_TWO_DAYS: "Listed on two consecutive days (visit over midnight)",
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
    missing = Counter(segment for row in summary.certificate for segment in row.missing)
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
    """One row per relation, with its number of days in each state."""
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
        return "Nothing could be tested: the segments of the relations are not landed."
    if summary.broken:
        return (
            f"{len(summary.broken):,} of {tested:,} tests found IDs that contradict a relation. "
            "Wix documents none of these relations: check the examples before you reload the days."
        )
    return f"All {tested:,} tests held: no ID contradicts a relation between segments."


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _day(day: date) -> str:
    return f"{day:%-d %b %Y}"

"""The charts of the HTML report, drawn by Plotly. The page itself is in `report`.

Plotly adapts a chart to the width of a phone and shows numbers on hover; its script adds 5 MB to
every report. Charts have no background or text colour: the page's style sheet sets both, for the
light and the dark scheme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from prefect_wix.client.models import DeviceType
from prefect_wix.errors import import_extra
from prefect_wix.profiles.summary import NO_DEVICE, DeviceDay, ReconciliationRow

# Distinct from each other and from both backgrounds, also for most colour-blind readers.
_COLOURS = {
    DeviceType.DESKTOP.value: "#4c7df0",
    DeviceType.MOBILE.value: "#14a38b",
    DeviceType.TABLET.value: "#e58a2b",
    NO_DEVICE: "#8b94a7",
}
_LANDED = "#4c7df0"
_COUNTED = "#e58a2b"
_CONFIG = {"displayModeBar": False, "responsive": True, "scrollZoom": False}
# The font of the page: Plotly measures its texts in it.
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_LAYOUT: Mapping[str, Any] = {
    "template": None,
    "dragmode": False,
    "hovermode": "x unified",
    "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": _FONT, "size": 13},
    "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
    "separators": ".,",
    # On a phone, dragging over a chart must scroll the page.
    "xaxis": {"fixedrange": True},
    "yaxis": {"fixedrange": True, "automargin": True},
}
_DATES = {
    "type": "date",
    "showspikes": False,
    "tickformat": "%-d %b",
    "hoverformat": "%a %-d %b %Y",
}


def chart_script() -> str:
    """Plotly's script, to be included once in a page."""
    return str(_plotly("plotly.offline").get_plotlyjs())


def funnel_chart(steps: Mapping[str, int]) -> str:
    """One bar per step, widest first, with its sessions and its share of the first step."""
    counts = list(steps.values())
    first = max(counts[0], 1)
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": list(map(_readable, steps)),
        "x": counts,
        "text": [f"{sessions:,} · {sessions / first:.1%}" for sessions in counts],
        "textposition": "auto",
        "insidetextanchor": "start",
        "constraintext": "none",
        "cliponaxis": False,
        "hoverinfo": "skip",
        "marker": {"color": _LANDED, "opacity": [1 - 0.13 * n for n in range(len(steps))]},
    }
    return _html(
        "funnel",
        [bars],
        height=52 * len(steps) + 16,
        bargap=0.28,
        xaxis={"visible": False},
        yaxis={"autorange": "reversed", "ticksuffix": "  "},
    )


def devices_chart(days: Sequence[DeviceDay]) -> str:
    """Each device's share of each day, as stacked bars that show the sessions on hover."""
    bars = []
    for device, colour in _COLOURS.items():
        own = {str(one.day): one.sessions for one in days if one.device == device}
        bar = {
            "type": "bar",
            "name": _readable(device),
            "x": list(own),
            "y": list(own.values()),
            "customdata": list(own.values()),
            "hovertemplate": "%{y:.1f} % · %{customdata:,} sessions",
            "marker": {"color": colour},
        }
        bars += [bar] if own else []
    yaxis = {"ticksuffix": " %", "range": [0, 100]}
    return _html(
        "devices", bars, barmode="stack", barnorm="percent", bargap=0.12, xaxis=_DATES, yaxis=yaxis
    )


def reconciliation_chart(rows: Sequence[ReconciliationRow]) -> str:
    """Landed sessions and Wix's count by day, as two lines."""
    days = [str(row.day) for row in rows]
    lines = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": days,
            "y": values,
            "hovertemplate": "%{y:,}",
            "line": {"color": colour, "dash": dash, "width": 2.5},
            "marker": {"size": 6},
        }
        for name, values, colour, dash in (
            ("Counted by Wix", [row.counted for row in rows], _COUNTED, "dot"),
            ("Landed", [row.landed for row in rows], _LANDED, "solid"),
        )
    ]
    yaxis = {"rangemode": "tozero", "tickformat": ","}
    return _html("reconciliation", lines, xaxis=_DATES, yaxis=yaxis)


def _readable(word: str) -> str:
    """The label of one of Wix's constants: ``ADDED_TO_CART`` becomes Added to cart.

    Escaped, because Plotly interprets its texts as HTML.
    """
    return escape(word.replace("_", " ").capitalize())


def _html(name: str, traces: list[dict[str, Any]], height: int = 300, **layout: Any) -> str:
    figure = _plotly("plotly.graph_objects").Figure(data=traces)
    figure.update_layout(_LAYOUT, height=height, **layout)
    html: str = _plotly("plotly.io").to_html(
        figure,
        config=_CONFIG,
        include_plotlyjs=False,
        full_html=False,
        div_id=f"chart-{name}",
        default_height=f"{height}px",
    )
    return html


def _plotly(module: str) -> Any:
    return import_extra(module, extra="report", what_for="A report")

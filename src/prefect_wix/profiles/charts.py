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
from prefect_wix.profiles.summary import (
    NO_DEVICE,
    DeviceDay,
    FunnelStepCount,
    ReconciliationRow,
)

# Distinct from each other and from both backgrounds, also for most colour-blind readers.
_COLOURS = {
    DeviceType.DESKTOP.value: "#4c7df0",
    DeviceType.MOBILE.value: "#14a38b",
    DeviceType.TABLET.value: "#e58a2b",
    NO_DEVICE: "#8b94a7",
}
_LANDED = "#4c7df0"
_COUNTED = "#e58a2b"
# On a phone, dragging over a chart must scroll the page.
_NO_ZOOM = {"fixedrange": True}
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
}


def chart_script() -> str:
    """Plotly's script, to be included once in a page."""
    text: str = _plotly("plotly.offline").get_plotlyjs()
    return text


def funnel_chart(steps: Sequence[FunnelStepCount]) -> str:
    """One bar per step, widest first, with its sessions and its share of the first step."""
    first = max(steps[0].sessions, 1)
    shares = [step.sessions / first for step in steps]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [_readable(step.step) for step in steps],
        "x": [step.sessions for step in steps],
        "text": [
            f"{step.sessions:,} · {share:.1%}" for step, share in zip(steps, shares, strict=True)
        ],
        "textposition": "auto",
        "insidetextanchor": "start",
        "constraintext": "none",
        "cliponaxis": False,
        "hoverinfo": "skip",
        "marker": {"color": _LANDED, "opacity": [1 - 0.13 * n for n in range(len(steps))]},
    }
    axes: dict[str, Any] = {
        "xaxis": {**_NO_ZOOM, "visible": False},
        "yaxis": {**_NO_ZOOM, "autorange": "reversed", "automargin": True, "ticksuffix": "  "},
    }
    return _html("funnel", [bars], height=52 * len(steps) + 16, bargap=0.28, **axes)


def devices_chart(days: Sequence[DeviceDay]) -> str:
    """Each device's share of each day, as stacked bars that show the sessions on hover."""
    devices = [device for device in _COLOURS if any(one.device == device for one in days)]
    bars = [_device_bars(device, days) for device in devices]
    axes: dict[str, Any] = {
        "xaxis": _dates(),
        "yaxis": {**_NO_ZOOM, "ticksuffix": " %", "automargin": True, "range": [0, 100]},
    }
    return _html("devices", bars, barmode="stack", barnorm="percent", bargap=0.12, **axes)


def _device_bars(device: str, days: Sequence[DeviceDay]) -> dict[str, Any]:
    own = [one for one in days if one.device == device]
    return {
        "type": "bar",
        "name": _readable(device),
        "x": [str(one.day) for one in own],
        "y": [one.sessions for one in own],
        "customdata": [one.sessions for one in own],
        "hovertemplate": "%{y:.1f} % · %{customdata:,} sessions",
        "marker": {"color": _COLOURS[device]},
    }


def reconciliation_chart(rows: Sequence[ReconciliationRow]) -> str:
    """Landed sessions and Wix's count by day, as two lines."""
    days = [str(row.day) for row in rows]
    lines = [
        _line("Counted by Wix", days, [row.counted for row in rows], _COUNTED, dash="dot"),
        _line("Landed", days, [row.landed for row in rows], _LANDED, dash="solid"),
    ]
    axes: dict[str, Any] = {
        "xaxis": _dates(),
        "yaxis": {**_NO_ZOOM, "rangemode": "tozero", "automargin": True, "tickformat": ","},
    }
    return _html("reconciliation", lines, **axes)


def _line(
    name: str, days: Sequence[str], values: Sequence[int], colour: str, *, dash: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": days,
        "y": values,
        "hovertemplate": "%{y:,}",
        "line": {"color": colour, "dash": dash, "width": 2.5},
        "marker": {"size": 6},
    }


def _dates() -> dict[str, Any]:
    return {
        **_NO_ZOOM,
        "type": "date",
        "showspikes": False,
        "tickformat": "%-d %b",
        "hoverformat": "%a %-d %b %Y",
    }


def _readable(word: str) -> str:
    """The label of one of Wix's constants: ``ADDED_TO_CART`` becomes Added to cart.

    Escaped, because Plotly interprets its texts as HTML.
    """
    return escape(word.replace("_", " ").capitalize())


def _html(name: str, traces: list[dict[str, Any]], height: int = 300, **layout: Any) -> str:
    figure = _plotly("plotly.graph_objects").Figure(data=traces)
    figure.update_layout({**_LAYOUT, "height": height, **layout})
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

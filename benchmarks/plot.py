"""The results as a bar chart in one SVG. Runs in the peers' environment, which has matplotlib.

``python -m benchmarks.plot RESULTS.jsonl PLOT.svg``
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

OURS, PEER, FLOOR = "#1f6f8b", "#b8bfc6", "#c0392b"
PANELS = (
    ("even", "seconds", "floor_seconds", "Even jobs: makespan, s"),
    ("even", "requests_per_job", "floor_requests", "Even jobs: requests per job"),
    ("even", "delay_median", None, "Even jobs: detected after, median s"),
    ("mixed", "seconds", "floor_seconds", "Mixed jobs: makespan, s"),
    ("mixed", "requests_per_job", "floor_requests", "Mixed jobs: requests per job"),
    ("mixed", "delay_median", None, "Mixed jobs: detected after, median s"),
    ("rate_limited", "seconds", "floor_seconds", "200 requests per minute: makespan, s"),
    ("rate_limited", "requests_per_job", "floor_requests", "200 per minute: requests per job"),
    ("morning", "seconds", "floor_seconds", "A morning of 30 jobs: makespan, s"),
    ("ids", "seconds", None, "One big day: seconds"),
    ("unknown_status", "polls", None, "Undocumented status: polls (log scale)"),
    ("import", "milliseconds", None, "Import time, ms"),
)
LOGARITHMIC = "unknown_status"
HUNDRED = 100


def draw(results: Path, plot: Path) -> None:
    """Draw the results of one file into another."""
    # Text is not converted to paths, and equal results make an equal file.
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 8}
    figure, axes = plt.subplots(4, 3, figsize=(13, 11), layout="constrained")
    observations = [json.loads(line) for line in results.read_text().splitlines()]
    for axis, panel in zip(axes.flat, PANELS, strict=True):
        _draw_panel(
            axis, _of_smallest([one for one in observations if one["measure"] == panel[0]]), panel
        )
    figure.suptitle("Medians. Dashed: the floor (theoretical minimum).", x=0.01, ha="left")
    figure.savefig(plot, metadata={"Date": None})


def _of_smallest(observations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sizes = [one["figures"].get("size", 0) for one in observations]
    return [one for one in observations if one["figures"].get("size", 0) == min(sizes)]


def _draw_panel(
    axis: Any, observations: list[dict[str, Any]], panel: tuple[str, str, str | None, str]
) -> None:
    measure, figure, floor, title = panel
    values: dict[str, list[float]] = {}
    for one in observations:
        values.setdefault(one["candidate"], []).append(one["figures"][figure])
    names = list(values)
    medians = [statistics.median(each) for each in values.values()]
    bars = axis.barh(
        names,
        medians,
        color=[OURS if "prefect" in name and name != "prefect" else PEER for name in names],
    )
    axis.bar_label(bars, [_short(value) for value in medians], padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_title(title, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    if measure == LOGARITHMIC:
        axis.set_xscale("symlog")
    if floor and observations:
        axis.axvline(observations[0]["figures"][floor], color=FLOOR, linestyle="--", linewidth=1)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= HUNDRED else f"{value:.3g}"


if __name__ == "__main__":
    draw(*map(Path, sys.argv[1:]))

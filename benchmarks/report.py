"""Observations as Markdown tables: the results part of a README, between two markers.

Several rounds are shown as their median and, where they differ, their range.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["read", "render", "replace_results"]

BEGIN, END = "<!-- results -->", "<!-- end of results -->"

Figures = dict[str, Any]
Rounds = list[Figures]


def read(results: Path) -> list[dict[str, Any]]:
    """The observations in a file, in order."""
    return [json.loads(line) for line in results.read_text().splitlines()]


def render(observations: Sequence[dict[str, Any]], plot: str) -> str:
    """The tables, with a link to the plot's file."""
    measures: dict[str, dict[str, Rounds]] = {}
    for one in observations:
        rounds = measures.setdefault(one["measure"], {})
        rounds.setdefault(one["candidate"], []).append(one["figures"])
    parts = [_facts(measures.pop("machine")), f"![The same figures as bars]({plot})"]
    for measure, show in SECTIONS.items():
        if measure in measures:
            parts.append(show(measures[measure]))
    return "\n\n".join(parts)


def replace_results(readme: str, results: str) -> str:
    """The text with the results between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"The README has no markers {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n\n{results}\n\n{END}{after}"


def _facts(machine: dict[str, Rounds]) -> str:
    return "\n".join(f"- {name}: {text}" for name, text in machine["facts"][0].items())


def _jobs(title: str) -> Callable[[dict[str, Rounds]], str]:
    def show(rounds: dict[str, Rounds]) -> str:
        one = next(iter(rounds.values()))[0]
        heading = (
            f"### {title.format(**one)}\n\nFloor: {one['floor_seconds']:.1f} s and "
            f"{one['floor_requests']:.1f} requests per job."
        )
        columns = (
            "",
            "makespan",
            "÷ floor",
            "requests per job",
            "detected after, median",
            "p95",
            "rejected (429)",
        )
        return f"{heading}\n\n{_table(columns, [_job_row(*item) for item in rounds.items()])}"

    return show


def _job_row(candidate: str, rounds: Rounds) -> list[str]:
    return [
        candidate,
        _spread(rounds, "seconds", "{:.1f}", " s"),
        f"{_median(one['seconds'] / one['floor_seconds'] for one in rounds):.2f}",
        f"{_median(one['requests_per_job'] for one in rounds):.2f}",
        f"{_median(one['delay_median'] for one in rounds):.2f} s",
        f"{_median(one['delay_p95'] for one in rounds):.2f} s",
        str(sum(one["rejected"] for one in rounds)),
    ]


def _ids(rounds: dict[str, Rounds]) -> str:
    sizes = dict.fromkeys(one["size"] for each in rounds.values() for one in each)
    return "\n\n".join(_ids_of(size, rounds) for size in sizes)


def _ids_of(size: int, all_rounds: dict[str, Rounds]) -> str:
    # Not every candidate is measured at every size.
    rounds = {
        candidate: of_size
        for candidate, each in all_rounds.items()
        if (of_size := [one for one in each if one["size"] == size])
    }
    fetched = [each for candidate, each in rounds.items() if "in flight" in candidate]
    fastest_fetch = min(_median(one["seconds"] for one in each) for each in fetched)
    rows = [
        [
            candidate,
            _spread(each, "seconds", "{:.1f}", " s"),
            f"{_median(one['seconds'] for one in each) / fastest_fetch:.2f}",
            f"{_median(one['cpu_seconds'] for one in each):.1f} s",
            f"{_median(one['peak_mib'] for one in each):.0f} MiB",
        ]
        for candidate, each in rounds.items()
    ]
    columns = ("", "seconds", "÷ fastest plain httpx", "CPU", "peak memory")
    return f"### One day of {size:,} sessions\n\n{_table(columns, rows)}"


def _small(rounds: dict[str, Rounds]) -> str:
    plain = rounds["plain httpx"]
    jobs = plain[0]["jobs"]
    rows = [
        [
            candidate,
            _spread(each, "seconds", "{:.1f}", " s"),
            f"{_median(one['requests_per_job'] for one in each):.2f}",
            *(_spread(_overhead(plain, each), name, "{:.1f}", " ms") for name in _OVERHEADS),
        ]
        for candidate, each in rounds.items()
    ]
    columns = ("", "seconds", "requests per job", "overhead per job", "CPU overhead per job")
    return f"### {jobs:,} small jobs that finish immediately\n\n{_table(columns, rows)}"


_OVERHEADS = ("seconds", "cpu_seconds")


def _overhead(plain: Rounds, rounds: Rounds) -> list[dict[str, float]]:
    """What each round took beyond the plain script in the same round, in milliseconds per job."""
    return [
        {name: 1000 * (one[name] - fetch[name]) / one["jobs"] for name in _OVERHEADS}
        for fetch, one in zip(plain, rounds, strict=True)
    ]


def _reruns(rounds: dict[str, Rounds]) -> str:
    rows = [[candidate, f"{one['rows']:,} of {one['of']:,}"] for candidate, [one] in rounds.items()]
    return f"### A rerun of unchanged days\n\n{_table(('', 'session rows written'), rows)}"


def _unknown_status(rounds: dict[str, Rounds]) -> str:
    seconds = next(iter(rounds.values()))[0]["seconds"]
    rows = [[candidate, f"{one['polls']:,}"] for candidate, [one] in rounds.items()]
    title = f"### {seconds:g} s of an undocumented job status"
    return f"{title}\n\n{_table(('', 'polls of the job'), rows)}"


def _imports(rounds: dict[str, Rounds]) -> str:
    rows = [
        [f"`import {candidate}`", _spread(each, "milliseconds", "{:.0f}", " ms")]
        for candidate, each in rounds.items()
    ]
    return f"### Import time\n\n{_table(('', 'CPU time beyond a bare interpreter'), rows)}"


def _flow_runs(rounds: dict[str, Rounds]) -> str:
    rows = [[name, _spread(each, "seconds", "{:.2f}", " s")] for name, each in rounds.items()]
    return f"### The process of a flow run\n\n{_table(('', 'seconds'), rows)}"


SECTIONS: dict[str, Callable[[dict[str, Rounds]], str]] = {
    "even": _jobs("{jobs} jobs of 2 s on {slots} slots"),
    "mixed": _jobs("{jobs} jobs of 0.5 to 6 s on {slots} slots"),
    "rate_limited": _jobs("{jobs} jobs of 0.5 to 6 s on {slots} slots, 200 requests per minute"),
    "rate_limited_long": _jobs(
        "{jobs} jobs of 2 to 20 s on {slots} slots, 200 requests per minute"
    ),
    "morning": _jobs("A morning: {jobs} jobs of 1.5 to 2.5 s on {slots} slots"),
    "ids": _ids,
    "small": _small,
    "rerun": _reruns,
    "unknown_status": _unknown_status,
    "import": _imports,
    "flow_run": _flow_runs,
}


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread(rounds: Rounds, name: str, form: str, unit: str) -> str:
    values = [one[name] for one in rounds]
    median, *ends = (form.format(x) for x in (statistics.median(values), min(values), max(values)))
    return f"{median}{unit}" if ends[0] == ends[1] else f"{median}{unit} ({ends[0]} to {ends[1]})"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)

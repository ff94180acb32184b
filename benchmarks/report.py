"""Observations as tables: the results part of a README, between two marks.

Several rounds of one thing are shown as their median and, where they differ, their spread.
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
    """The observations of a file, in order."""
    return [json.loads(line) for line in results.read_text().splitlines()]


def render(observations: Sequence[dict[str, Any]], plot: str) -> str:
    """The tables, and the plot by its file's name."""
    measures: dict[str, dict[str, Rounds]] = {}
    for one in observations:
        measures.setdefault(one["measure"], {}).setdefault(one["who"], []).append(one["figures"])
    parts = [_facts(measures.pop("machine")), f"![The same figures as bars]({plot})"]
    for measure, show in SECTIONS.items():
        if measure in measures:
            parts.append(show(measures[measure]))
    return "\n\n".join(parts)


def replace_results(readme: str, results: str) -> str:
    """The text with the results between its marks.

    Raises:
        ValueError: the marks are missing.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"The README has no {BEGIN} and {END} to put results between.")
    return f"{before}{BEGIN}\n\n{results}\n\n{END}{after}"


def _facts(machine: dict[str, Rounds]) -> str:
    return "\n".join(f"- {name}: {text}" for name, text in machine["facts"][0].items())


def _race(title: str) -> Callable[[dict[str, Rounds]], str]:
    def show(rounds: dict[str, Rounds]) -> str:
        one = next(iter(rounds.values()))[0]
        heading = (
            f"### {title.format(**one)}\n\nFloor: {one['floor_seconds']:.1f} s and "
            f"{one['floor_requests']:.1f} requests a job."
        )
        columns = (
            "",
            "makespan",
            "÷ floor",
            "requests a job",
            "noticed after, median",
            "p95",
            "refused (429)",
        )
        return f"{heading}\n\n{_table(columns, [_race_row(*item) for item in rounds.items()])}"

    return show


def _race_row(who: str, rounds: Rounds) -> list[str]:
    return [
        who,
        _spread(rounds, "seconds", "{:.1f}", " s"),
        f"{_median(one['seconds'] / one['floor_seconds'] for one in rounds):.2f}",
        f"{_median(one['requests_per_job'] for one in rounds):.2f}",
        f"{_median(one['delay_median'] for one in rounds):.2f} s",
        f"{_median(one['delay_p95'] for one in rounds):.2f} s",
        str(sum(one["refused"] for one in rounds)),
    ]


def _ids(rounds: dict[str, Rounds]) -> str:
    sizes = dict.fromkeys(one["size"] for each in rounds.values() for one in each)
    return "\n\n".join(_ids_of(size, rounds) for size in sizes)


def _ids_of(size: int, all_rounds: dict[str, Rounds]) -> str:
    # Not everybody takes part in every size.
    rounds = {
        who: those
        for who, each in all_rounds.items()
        if (those := [one for one in each if one["size"] == size])
    }
    fetched = [each for who, each in rounds.items() if "in flight" in who]
    bare = min(_median(one["seconds"] for one in each) for each in fetched)
    rows = [
        [
            who,
            _spread(each, "seconds", "{:.1f}", " s"),
            f"{_median(one['seconds'] for one in each) / bare:.2f}",
            f"{_median(one['cpu_seconds'] for one in each):.1f} s",
            f"{_median(one['peak_mib'] for one in each):.0f} MiB",
        ]
        for who, each in rounds.items()
    ]
    columns = ("", "seconds", "÷ the faster bare fetch", "its own CPU", "its peak memory")
    return f"### One day of {size:,} sessions\n\n{_table(columns, rows)}"


def _small(rounds: dict[str, Rounds]) -> str:
    bare = rounds["plain httpx"]
    jobs = bare[0]["jobs"]
    rows = [
        [
            who,
            _spread(each, "seconds", "{:.1f}", " s"),
            f"{_median(one['requests_per_job'] for one in each):.2f}",
            *(_spread(_beyond(bare, each), name, "{:.1f}", " ms") for name in _OF_WORK),
        ]
        for who, each in rounds.items()
    ]
    columns = ("", "seconds", "requests a job", "overhead a job", "CPU of it")
    return f"### {jobs:,} small jobs that are done at once\n\n{_table(columns, rows)}"


_OF_WORK = ("seconds", "cpu_seconds")


def _beyond(bare: Rounds, rounds: Rounds) -> list[dict[str, float]]:
    """What each round took beyond the bare fetch of the same round, in milliseconds a job."""
    return [
        {name: 1000 * (one[name] - fetch[name]) / one["jobs"] for name in _OF_WORK}
        for fetch, one in zip(bare, rounds, strict=True)
    ]


def _reruns(rounds: dict[str, Rounds]) -> str:
    rows = [[who, f"{one['rows']:,} of {one['of']:,}"] for who, [one] in rounds.items()]
    return f"### A rerun of unchanged days\n\n{_table(('', 'session rows written'), rows)}"


def _unlisted(rounds: dict[str, Rounds]) -> str:
    seconds = next(iter(rounds.values()))[0]["seconds"]
    rows = [[who, f"{one['polls']:,}"] for who, [one] in rounds.items()]
    title = f"### {seconds:g} s of an unlisted job status"
    return f"{title}\n\n{_table(('', 'polls of the one job'), rows)}"


def _imports(rounds: dict[str, Rounds]) -> str:
    rows = [
        [f"`import {who}`", _spread(each, "milliseconds", "{:.0f}", " ms")]
        for who, each in rounds.items()
    ]
    return f"### Import time\n\n{_table(('', 'CPU time beyond a bare interpreter'), rows)}"


SECTIONS: dict[str, Callable[[dict[str, Rounds]], str]] = {
    "even": _race("{jobs} jobs of 2 s on {slots} slots"),
    "mixed": _race("{jobs} jobs of 0.5 to 6 s on {slots} slots"),
    "budget": _race("{jobs} jobs of 0.5 to 6 s on {slots} slots and 200 requests a minute"),
    "ids": _ids,
    "small": _small,
    "rerun": _reruns,
    "unlisted": _unlisted,
    "import": _imports,
}


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread(rounds: Rounds, name: str, form: str, unit: str) -> str:
    values = [one[name] for one in rounds]
    middle, *ends = (form.format(x) for x in (statistics.median(values), min(values), max(values)))
    return f"{middle}{unit}" if ends[0] == ends[1] else f"{middle}{unit} ({ends[0]} to {ends[1]})"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)

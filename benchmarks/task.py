"""The protocol of a candidate: a task as its last argument, one line of figures on its output.

Candidates run in other environments, so this module imports the standard library only. The
candidates are listed in `benchmarks.candidates`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Task", "measure_work", "parse_figures", "task_from_arguments"]

_MARK = "figures: "
_LONGEST_WAIT_SECONDS = 30.0


@dataclass(frozen=True)
class Task:
    """What a candidate fetches: all sessions of some local days, one job per day."""

    base_url: str
    api_key: str
    site_id: str
    timezone: str
    days: tuple[tuple[str, str], ...]
    """Each day and the day after it, as ISO dates."""
    slots: int
    """The number of jobs that may run at once."""
    requests_per_minute: int = 1_000_000
    """The rate limit, for a candidate that has one. The default is too high to bind."""
    tick_seconds: float = 1.0
    """The wait before the first poll of a candidate that polls without observations."""
    tick_growth: float = 1.0
    """The ratio of consecutive waits: 1 is a fixed interval, 2 an exponential backoff."""
    pages_in_flight: int = 1
    """The number of pages of one job that the plain script requests at once."""
    warehouse: str = ""
    """The warehouse URL, for a candidate that loads a warehouse."""
    no_waiting: bool = False
    """Whether waits between requests take no time, so that only work is measured."""

    def to_json(self) -> str:
        """The task as a command-line argument."""
        return json.dumps(asdict(self))

    def poll_waits(self) -> Iterator[float]:
        """The waits between the polls of one job in seconds, without end."""
        wait = self.tick_seconds
        while True:
            yield wait
            wait = min(wait * self.tick_growth, _LONGEST_WAIT_SECONDS)


def task_from_arguments() -> Task:
    """The task in the last command-line argument of this program."""
    fields = json.loads(sys.argv[-1])
    return Task(**fields | {"days": tuple(map(tuple, fields["days"]))})


def measure_work(work: Callable[[], Any]) -> None:
    """Run the work and print its figures as one line. The time of imports is not included.

    ``result`` is what the work returned, such as the number of sessions.
    """
    started_at, cpu_at_start = time.perf_counter(), time.process_time()
    result = work()
    figures = {
        "seconds": time.perf_counter() - started_at,
        "cpu_seconds": time.process_time() - cpu_at_start,
        "peak_mib": _peak_mib(),
        "result": result,
    }
    print(f"{_MARK}{json.dumps(figures)}", flush=True)


def parse_figures(output: str) -> dict[str, Any]:
    """The figures in the output of a candidate.

    Raises:
        ValueError: the output has none.
    """
    lines = [line for line in output.splitlines() if line.startswith(_MARK)]
    if not lines:
        raise ValueError(f"The candidate printed no figures: {output[-2000:]}")
    figures: dict[str, Any] = json.loads(lines[-1].removeprefix(_MARK))
    return figures


def _peak_mib() -> float | None:
    """The peak memory of this process in MiB, on Linux; None on other systems.

    Not from ``getrusage``, where a child starts with the peak of its parent.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024

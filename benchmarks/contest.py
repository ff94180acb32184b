"""The contract between the benchmark and a contestant: one task in, one line of figures out.

A contestant is a program in an environment of its own. So there is nothing here but the standard
library, and nothing of who the contestants are.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Task", "figures_in", "tell", "told_task"]

_MARK = "figures: "


@dataclass(frozen=True)
class Task:
    """What a contestant is to fetch: every session of some local days, one job for each day."""

    base_url: str
    api_key: str
    site_id: str
    timezone: str
    days: tuple[tuple[str, str], ...]
    """The first day and the day after it, as dates."""
    slots: int
    """How many jobs may run at once."""
    requests_per_minute: int = 1_000_000
    """The budget, for a contestant that keeps one. So high that it does not bind unless told."""
    tick_seconds: float = 1.0
    """How often a contestant without a mind of its own polls."""
    pages_in_flight: int = 1
    """How many pages of one job the plain script asks for at once."""
    warehouse: str = ""
    """Where to land what is fetched, for a contestant that lands."""
    no_waiting: bool = False
    """Waits between requests take no time, so that what is left is work."""

    def to_json(self) -> str:
        """The task as a command's argument."""
        return json.dumps(asdict(self))


def told_task() -> Task:
    """The task that this program was given as its last argument."""
    told = json.loads(sys.argv[-1])
    return Task(**told | {"days": tuple(map(tuple, told["days"]))})


def tell(work: Callable[[], Any]) -> None:
    """Do the work and print what it took, as one line among others. Imports are not in it.

    ``result`` is what the work returned: how many sessions there were, or the like.
    """
    began, worked = time.perf_counter(), time.process_time()
    result = work()
    figures = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - worked,
        "peak_mib": _peak_mib(),
        "result": result,
    }
    print(f"{_MARK}{json.dumps(figures)}", flush=True)


def figures_in(said: str) -> dict[str, Any]:
    """The figures in what a contestant printed.

    Raises:
        ValueError: there are none.
    """
    lines = [line for line in said.splitlines() if line.startswith(_MARK)]
    if not lines:
        raise ValueError(f"No figures in what the contestant said: {said[-2000:]}")
    figures: dict[str, Any] = json.loads(lines[-1].removeprefix(_MARK))
    return figures


def _peak_mib() -> float | None:
    """The most memory this process has held, in MiB. From Linux; elsewhere it is not known.

    Not ``getrusage``, where a child begins with the peak of its parent.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(found.split()[1]) / 1024

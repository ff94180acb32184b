"""Lower bounds of time and requests, computed from the jobs of a run."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

__all__ = ["fewest_requests", "shortest_makespan"]

PAGE = 1000


def fewest_requests(sessions: int) -> int:
    """The fewest requests of a job with this many sessions: one submit, then its pages.

    The poll that finds a job finished returns its first page.
    """
    return 1 + max(1, ceil(sessions / PAGE))


def shortest_makespan(
    job_seconds: Sequence[float],
    slots: int,
    *,
    requests: int = 0,
    requests_per_minute: int | None = None,
) -> float:
    """The fewest seconds that the jobs take, with a number of slots and a rate limit.

    A lower bound, not a schedule: the slots are never idle, and the requests of each minute are
    sent in its first instant.
    """
    by_slots = max(sum(job_seconds) / slots, *job_seconds)
    if requests_per_minute is None:
        return by_slots
    return max(by_slots, 60.0 * (ceil(requests / requests_per_minute) - 1))

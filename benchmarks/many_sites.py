"""What many sites need: a day of loads played in virtual time. ``python -m benchmarks.many_sites``.

Counts runs, requests, minutes and memory from the figures in `Assumptions`; runs no Prefect and
asks nobody. What the figures are worth is said beside each of them.
"""

from __future__ import annotations

import argparse
import heapq
import math
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Assumptions:
    """What one site takes. Measured figures are of one machine with two busy cores."""

    partitions: int = 12
    """Days to ask times segments: a new day and three that may have changed, by three devices."""
    requests_per_partition: int = 2
    """Computed: a submit, and a poll that finds the job finished and is its only page."""
    job_seconds: tuple[float, float] = (5.0, 60.0)
    """Assumed, evenly spread: Wix documents nothing."""
    process_seconds: float = 12.0
    """Measured: 4 to start and import, 8 for a load whose jobs are finished at once."""
    cpu_seconds: float = 4.3
    """Measured: 1.9 to import, 2.3 for a load of 12 partitions."""
    memory_mb: float = 260.0
    """Measured, with the sandbox in the same process: an upper bound."""
    server_requests: int = 65
    """Measured: 58 by the run itself, 25 of them for the site's shared limit. Assumed: 7 more by
    its worker and its parent, who polls besides."""
    parent_poll_seconds: float = 5.0
    """`prefect_wix.tasks.sites.POLL_SECONDS`."""

    @property
    def requests(self) -> int:
        """Requests to Wix for one site, with the one for its time zone."""
        return 1 + self.partitions * self.requests_per_partition


@dataclass(frozen=True)
class Needs:
    """What the loads of all sites came to."""

    slots: int
    minutes: float
    server_requests_per_second: float
    cores: float
    memory_gb: float


def simulate(sites: int, slots: int, given: Assumptions, random: Random) -> Needs:
    """Load the sites, so many at once; a slot is free when the parent has seen a run's end."""
    free_at = [0.0] * slots
    polls = 0
    for _ in range(sites):
        begun = heapq.heappop(free_at)
        jobs = (random.uniform(*given.job_seconds) for _ in range(given.partitions))
        seen = math.ceil((given.process_seconds + max(jobs)) / given.parent_poll_seconds)
        polls += seen
        heapq.heappush(free_at, begun + seen * given.parent_poll_seconds)
    seconds = max(free_at)
    return Needs(
        slots=slots,
        minutes=seconds / 60,
        server_requests_per_second=(sites * given.server_requests + polls) / seconds,
        cores=sites * given.cpu_seconds / seconds,
        memory_gb=slots * given.memory_mb / 1000,
    )


def main() -> None:
    """Print a table, a row for each number of sites at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=10_000)
    parser.add_argument("--slots", type=int, nargs="+", default=[10, 25, 50, 100, 200, 400])
    given, assumed = parser.parse_args(), Assumptions()
    print(f"{given.sites:,} sites, {given.sites * assumed.requests:,} requests to Wix\n")
    print("| sites at once | minutes | server requests/s | cores busy | memory of workers |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for slots in given.slots:
        needs = simulate(given.sites, slots, assumed, Random(1))  # noqa: S311
        print(
            f"| {slots} | {needs.minutes:,.0f} | {needs.server_requests_per_second:.0f} "
            f"| {needs.cores:.1f} | {needs.memory_gb:.0f} GB |"
        )


if __name__ == "__main__":
    main()

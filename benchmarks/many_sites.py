"""A simulation of what loads of many sites require. Run by ``python -m benchmarks.many_sites``.

It computes runs, requests, minutes and memory from `Assumptions`; it runs no Prefect and sends no
request. Each assumption says whether it is measured, computed or assumed.
"""

from __future__ import annotations

import argparse
import heapq
import math
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Assumptions:
    """The load of one site. Measured figures are from one machine with two busy cores."""

    partitions: int = 12
    """One new day and three that may have changed, each for three devices."""
    requests_per_partition: int = 2
    """Computed: a submit, and a poll that finds the job finished and returns its only page."""
    job_seconds: tuple[float, float] = (5.0, 60.0)
    """Assumed, uniformly distributed: Wix documents no durations."""
    sites_per_run: int = 10
    """The default of ``load-sites``."""
    process_seconds: float = 60.0
    """Measured: 20 to start and import, 40 to load the ten sites of a run, on a busy machine."""
    run_cpu_seconds: float = 4.0
    """Measured: two processes that import Prefect."""
    cpu_seconds: float = 2.3
    """Measured: a load of 12 partitions."""
    memory_mb: float = 260.0
    """Measured for one site, with the sandbox in the same process. Assumed for ten small ones."""
    server_requests: int = 26
    """Measured with a server on SQLite: 22 by the run that loads the site, 4 by its worker and its
    parent. Polls of the parent are not included."""
    parent_poll_seconds: float = 5.0
    """`prefect_wix.tasks.sites.POLL_SECONDS`."""

    @property
    def requests(self) -> int:
        """Requests to Wix for one site, with the one for its time zone."""
        return 1 + self.partitions * self.requests_per_partition


@dataclass(frozen=True)
class Requirements:
    """The result of a simulation."""

    slots: int
    minutes: float
    server_requests_per_second: float
    cores: float
    memory_gb: float


def simulate(sites: int, slots: int, site: Assumptions, random: Random) -> Requirements:
    """Load the sites in these slots. A slot is free when the parent has polled the run's end."""
    free_at = [0.0] * slots
    polls = 0
    runs = math.ceil(sites / site.sites_per_run)
    for _ in range(runs):
        started_at = heapq.heappop(free_at)
        jobs = (
            random.uniform(*site.job_seconds) for _ in range(site.partitions * site.sites_per_run)
        )
        run_polls = math.ceil((site.process_seconds + max(jobs)) / site.parent_poll_seconds)
        polls += run_polls
        heapq.heappush(free_at, started_at + run_polls * site.parent_poll_seconds)
    seconds = max(free_at)
    return Requirements(
        slots=slots,
        minutes=seconds / 60,
        server_requests_per_second=(sites * site.server_requests + polls) / seconds,
        cores=(sites * site.cpu_seconds + runs * site.run_cpu_seconds) / seconds,
        memory_gb=slots * site.memory_mb / 1000,
    )


def main() -> None:
    """Print a table with one row per number of concurrent runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=10_000)
    parser.add_argument("--slots", type=int, nargs="+", default=[2, 5, 10, 20, 40])
    options, assumed = parser.parse_args(), Assumptions()
    print(f"{options.sites:,} sites, {options.sites * assumed.requests:,} requests to Wix\n")
    print("| concurrent runs | minutes | server requests/s | busy cores | worker memory |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for slots in options.slots:
        result = simulate(options.sites, slots, assumed, Random(1))  # noqa: S311
        print(
            f"| {slots} | {result.minutes:,.0f} | {result.server_requests_per_second:.0f} "
            f"| {result.cores:.1f} | {result.memory_gb:.0f} GB |"
        )


if __name__ == "__main__":
    main()

"""The measures, one function each. Every figure is an `Observation` in a file of JSON lines.

Each round runs all candidates one after the other, and rounds are repeated, so that other load of
the machine affects all candidates alike. The tables are made in `report`.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from benchmarks.candidates import (
    AIRBYTE,
    DLT,
    FLOW,
    HTTPX,
    LIMITED_DLT,
    LIMITED_HTTPX,
    LISTING,
    LOAD,
    PEERS_PYTHON,
    RELOAD,
    ROOT,
    Candidate,
    environment,
    run,
    started,
)
from benchmarks.floors import fewest_requests, shortest_makespan
from benchmarks.sandboxes import TIMEZONE, Address, Request, SandboxLog, SandboxProcess, Scenario
from benchmarks.task import Task
from tests.warehouses import PostgresServer, postgres_programs

__all__ = ["FULL", "MEASURES", "QUICK", "Bench", "Observation", "Scale", "measure_jobs"]

ALL_CANDIDATES = (LOAD, LISTING, HTTPX, DLT, AIRBYTE)
OK = 200
TOO_MANY_REQUESTS = 429
REQUESTS_PER_MINUTE = 200
"""Wix's rate limit for one site."""
LIMITED: dict[str, float] = {"requests_per_minute": REQUESTS_PER_MINUTE}
EVERY_5_S = LIMITED | {"tick_seconds": 5.0}
BACKOFF = LIMITED | {"tick_seconds": 1.0, "tick_growth": 2.0}
RATE_LIMITED: tuple[tuple[Candidate, dict[str, float]], ...] = (
    (LOAD, LIMITED),
    (LISTING, LIMITED),
    (replace(LIMITED_HTTPX, name="httpx, every 5 s"), EVERY_5_S),
    (replace(LIMITED_HTTPX, name="httpx, backoff"), BACKOFF),
    (replace(LIMITED_DLT, name="dlt, every 5 s"), EVERY_5_S),
    (replace(LIMITED_DLT, name="dlt, backoff"), BACKOFF),
    (AIRBYTE, LIMITED),
)
"""The candidates with a rate limiter, and poll intervals for those that have none of their own."""
UNKNOWN_STATUS = "unknown_status"
UNKNOWN_STATUS_SECONDS = 6.0
IMPORTS = {
    "prefect_wix": sys.executable,
    "prefect_wix.client": sys.executable,
    "prefect_wix.flows.load_sessions": sys.executable,
    "prefect": sys.executable,
    "prefect.flow_engine": sys.executable,
    "httpx": PEERS_PYTHON,
    "dlt": PEERS_PYTHON,
    "airbyte_cdk": PEERS_PYTHON,
}
FLOW_RUNS = {
    "an empty flow": (
        "import asyncio, prefect\n@prefect.flow\nasync def empty(days: int = 1): pass\n"
        "asyncio.run(empty())"
    ),
    "load-sessions with nothing to load": (
        "import asyncio\nfrom benchmarks.ours_by_prefect import load_all\n"
        "from benchmarks.task import task_from_arguments\n"
        "asyncio.run(load_all(task_from_arguments()))"
    ),
}
"""The programs of processes that run one flow on a Prefect server."""


@dataclass(frozen=True)
class Scale:
    """The number of rounds, jobs and IDs."""

    rounds: int
    even_jobs: int
    """The number of jobs that take 2 s each."""
    mixed_jobs: int
    mixed_slots: int
    rate_limited_jobs: int
    """The number of jobs of 0.5 to 6 s with the rate limit."""
    rate_limited_long_jobs: int
    """The number of jobs of 2 to 20 s with the rate limit; 0 skips them."""
    morning_jobs: int
    """The number of jobs of a usual morning; 0 skips it."""
    big_ids: int
    """The number of IDs in the big partition."""
    big_rounds: int
    """The rounds of the big partition, which other load of the machine affects most."""
    biggest_ids: int
    """The number of IDs in the partition that is loaded once; 0 skips it."""
    small_jobs: int
    import_rounds: int


FULL = Scale(
    rounds=3,
    even_jobs=20,
    mixed_jobs=500,
    mixed_slots=40,
    rate_limited_jobs=300,
    rate_limited_long_jobs=300,
    morning_jobs=30,
    big_ids=1_000_000,
    big_rounds=5,
    biggest_ids=10_000_000,
    small_jobs=1000,
    import_rounds=7,
)
QUICK = Scale(
    rounds=1,
    even_jobs=8,
    mixed_jobs=12,
    mixed_slots=12,
    rate_limited_jobs=8,
    rate_limited_long_jobs=0,
    morning_jobs=0,
    big_ids=100_000,
    big_rounds=1,
    biggest_ids=0,
    small_jobs=50,
    import_rounds=3,
)


@dataclass(frozen=True)
class Observation:
    """The figures of one candidate in one round of one measure."""

    measure: str
    candidate: str
    figures: dict[str, Any]


class Bench:
    """Runs candidates against the sandbox process, and appends figures to the results file."""

    def __init__(self, process: SandboxProcess, scale: Scale, results: Path) -> None:
        self.scale = scale
        self._process = process
        self._results = results

    def add(self, measure: str, candidate: str, **figures: Any) -> None:
        """Append figures to the results, and print them."""
        observation = Observation(measure, candidate, figures)
        with self._results.open("a") as file:
            file.write(json.dumps(asdict(observation)) + "\n")
        print(f"{measure:14} {candidate:26} {_format(figures)}", flush=True)

    def run(
        self, candidate: Candidate, scenario: Scenario, **task: Any
    ) -> tuple[dict[str, Any], SandboxLog]:
        """Run a candidate on a scenario; return its figures and the log of the sandbox."""
        with self.open_task(scenario, **task) as opened:
            return run(candidate, opened), self._process.log()

    @contextmanager
    def open_task(self, scenario: Scenario, **task: Any) -> Iterator[Task]:
        """Run a sandbox, with an empty DuckDB file, for one task."""
        with self._process.runs(scenario) as address, _duckdb() as url:
            yield _task(address, scenario, {"warehouse": url} | task)

    def log(self) -> SandboxLog:
        """The requests and jobs of the running sandbox so far."""
        return self._process.log()

    @contextmanager
    def lane(self) -> Iterator[Bench]:
        """The same bench with a sandbox process of its own, for candidates that run at once."""
        with SandboxProcess() as process:
            yield Bench(process, self.scale, self._results)


def even_jobs(bench: Bench) -> None:
    """Measure jobs of exactly 2 s on four slots, without a rate limit."""
    scenario = Scenario(bench.scale.even_jobs, 400 * bench.scale.even_jobs, (2.0, 2.0))
    for _ in range(bench.scale.rounds):
        for candidate in ALL_CANDIDATES:
            measure_jobs(bench, "even", candidate, scenario, slots=4)


def mixed_jobs(bench: Bench) -> None:
    """Measure jobs of 0.5 to 6 s on many slots, without a rate limit."""
    jobs, slots = bench.scale.mixed_jobs, bench.scale.mixed_slots
    for candidate in ALL_CANDIDATES:
        measure_jobs(bench, "mixed", candidate, Scenario(jobs, 100 * jobs, (0.5, 6.0)), slots=slots)


def morning(bench: Bench) -> None:
    """Measure the jobs of one morning, without earlier observations, on the default slots."""
    if jobs := bench.scale.morning_jobs:
        scenario = Scenario(jobs, 400 * jobs, (1.5, 2.5), requests_per_minute=REQUESTS_PER_MINUTE)
        for candidate, options in RATE_LIMITED:
            measure_jobs(bench, "morning", candidate, scenario, slots=16, **options)


def rate_limited_jobs(bench: Bench) -> None:
    """Measure more jobs than Wix's rate limit lets finish within a minute, short and long ones."""
    _race(bench, "rate_limited", bench.scale.rate_limited_jobs, (0.5, 6.0))
    if jobs := bench.scale.rate_limited_long_jobs:
        _race(bench, "rate_limited_long", jobs, (2.0, 20.0))


def _race(bench: Bench, measure: str, jobs: int, seconds: tuple[float, float]) -> None:
    """Run the candidates at the same time, each with its own sandbox, since they mostly wait."""
    scenario = Scenario(jobs, 100 * jobs, seconds, requests_per_minute=REQUESTS_PER_MINUTE)
    slots = bench.scale.mixed_slots

    def run_one(candidate: Candidate, options: dict[str, float]) -> None:
        with bench.lane() as lane:
            measure_jobs(lane, measure, candidate, scenario, slots=slots, **options)

    with ThreadPoolExecutor(len(RATE_LIMITED)) as threads:
        list(threads.map(run_one, *zip(*RATE_LIMITED, strict=True)))


def big_partitions(bench: Bench) -> None:
    """Measure one day of many IDs, from submit to landed, and a plain fetch of its pages."""
    size = bench.scale.big_ids
    for _ in range(bench.scale.big_rounds):
        _fetch_big_partition(bench, size, pages_in_flight=1)
        _fetch_big_partition(bench, size, pages_in_flight=4)
        _land_big_partition(bench, size, "DuckDB", _duckdb)
        _land_big_partition(bench, size, "PostgreSQL", _postgres)


def biggest_partition(bench: Bench) -> None:
    """Measure a day of ten times as many IDs once, for its memory."""
    if size := bench.scale.biggest_ids:
        _fetch_big_partition(bench, size, pages_in_flight=1)
        _land_big_partition(bench, size, "DuckDB", _duckdb)


def small_jobs(bench: Bench) -> None:
    """Measure the overhead of many jobs of ten IDs that finish immediately.

    Waits are skipped on the client's clock and the plain script polls without a wait, so that all
    send the same two requests per job. Overhead is the time beyond that of the plain script.
    """
    for _ in range(bench.scale.rounds):
        for candidate in (HTTPX, LISTING, LOAD, FLOW):
            _run_small_jobs(bench, candidate)


def _run_small_jobs(bench: Bench, candidate: Candidate) -> None:
    jobs = bench.scale.small_jobs
    scenario = Scenario(jobs, 10 * jobs)
    figures, log = bench.run(candidate, scenario, slots=8, tick_seconds=0.0, no_waiting=True)
    requests = _count(log) / jobs
    bench.add("small", candidate.name, jobs=jobs, requests_per_job=requests, **_seconds(figures))


def reruns(bench: Bench) -> None:
    """Count the rows that a second load of unchanged days writes."""
    scenario = Scenario(days=10, sessions=20_000)
    replace = Candidate("dlt, replace", DLT.python, DLT.module, "replace")
    merge = Candidate("dlt, merge", DLT.python, DLT.module, "merge")
    for candidate in (RELOAD, replace, merge):
        figures, _ = bench.run(candidate, scenario, slots=4, tick_seconds=0.05)
        bench.add("rerun", candidate.name, rows=figures["result"], of=scenario.sessions)


def unknown_status(bench: Bench) -> None:
    """Count the polls of one job whose status stays one that Wix does not document."""
    scenario = Scenario(days=1, sessions=10, faults=(UNKNOWN_STATUS,))
    for candidate in (LOAD, HTTPX, DLT, AIRBYTE):
        with (
            bench.open_task(scenario, slots=1) as task,
            TemporaryFile() as output,
            started(candidate, task, output),
        ):
            until = _first_submit(bench) + UNKNOWN_STATUS_SECONDS
            time.sleep(UNKNOWN_STATUS_SECONDS)
            polls = sum(one.endpoint == "result" for one in _requests_until(bench.log(), until))
        bench.add("unknown_status", candidate.name, polls=polls, seconds=UNKNOWN_STATUS_SECONDS)


def imports(bench: Bench) -> None:
    """Measure the CPU time of an import, less that of an interpreter that imports nothing."""
    with TemporaryDirectory() as home:
        for module, python in IMPORTS.items():
            _import_seconds(module, python, home)  # compile modules before the first measurement
        for _ in range(bench.scale.import_rounds):
            for module, python in IMPORTS.items():
                seconds = _import_seconds(module, python, home)
                bench.add("import", module, milliseconds=1000 * seconds)


def flow_runs(bench: Bench) -> None:
    """Measure the processes of an empty flow run, and of one that finds nothing to load."""
    with (
        bench.open_task(Scenario(1, 10), slots=1) as task,
        prefect_test_harness(server_startup_timeout=60),
        TemporaryDirectory() as home,
    ):
        env = environment(home) | {"PREFECT_API_URL": PREFECT_API_URL.value() or ""}

        def run_one(program: str) -> float:
            started_at = time.perf_counter()
            words = [sys.executable, "-c", program, task.to_json()]
            subprocess.run(words, check=True, env=env, cwd=ROOT, capture_output=True)
            return time.perf_counter() - started_at

        for program in FLOW_RUNS.values():
            run_one(program)  # loads the day, and compiles modules
        for _ in range(bench.scale.import_rounds):
            for name, program in FLOW_RUNS.items():
                bench.add("flow_run", name, seconds=run_one(program))


MEASURES = (
    imports,
    flow_runs,
    unknown_status,
    reruns,
    even_jobs,
    mixed_jobs,
    small_jobs,
    big_partitions,
    biggest_partition,
    morning,
    rate_limited_jobs,
)


def measure_jobs(
    bench: Bench, measure: str, candidate: Candidate, scenario: Scenario, **task: Any
) -> None:
    """Run a candidate on a scenario of many jobs, and add its figures and their lower bounds.

    Raises:
        RuntimeError: the candidate did not return all sessions.
    """
    figures, log = bench.run(candidate, scenario, **task)
    expected = sum(job.sessions for job in log.jobs)
    if figures["result"] != expected:
        raise RuntimeError(f"{candidate.name} returned {figures['result']} of {expected} sessions.")
    bench.add(
        measure,
        candidate.name,
        jobs=len(log.jobs),
        slots=task["slots"],
        **_floors(log, scenario, task["slots"]),
        **_request_figures(log),
        **_seconds(figures),
    )


def _floors(log: SandboxLog, scenario: Scenario, slots: int) -> dict[str, float]:
    fewest = sum(fewest_requests(job.sessions) for job in log.jobs)
    seconds = shortest_makespan(
        [job.ready - job.submitted for job in log.jobs],
        slots,
        requests=fewest,
        requests_per_minute=scenario.requests_per_minute,
    )
    return {"floor_seconds": seconds, "floor_requests": fewest / len(log.jobs)}


def _request_figures(log: SandboxLog) -> dict[str, float]:
    delays = _delays(log)
    return {
        "requests_per_job": _count(log) / len(log.jobs),
        "rejected": sum(one.status == TOO_MANY_REQUESTS for one in log.requests),
        "delay_median": statistics.median(delays),
        "delay_p95": statistics.quantiles(delays, n=20, method="inclusive")[-1],
    }


def _delays(log: SandboxLog) -> list[float]:
    """Seconds from the end of each job to the first poll that found it finished."""
    ready = {job.job_id: job.ready for job in log.jobs}
    detected: dict[str, float] = {}
    for one in log.requests:
        job_id = one.job_id or ""
        if one.endpoint == "result" and one.status == OK and one.at >= ready[job_id]:
            detected.setdefault(job_id, one.at)
    return [at - ready[job_id] for job_id, at in detected.items()]


def _fetch_big_partition(bench: Bench, size: int, *, pages_in_flight: int) -> None:
    figures, _ = bench.run(
        HTTPX, Scenario(1, size), slots=1, tick_seconds=0.0, pages_in_flight=pages_in_flight
    )
    name = f"{HTTPX.name}, {pages_in_flight} in flight"
    bench.add("ids", name, size=size, **_seconds(figures))


def _land_big_partition(
    bench: Bench, size: int, engine: str, warehouse: Callable[[], AbstractContextManager[str]]
) -> None:
    with warehouse() as url:
        figures, _ = bench.run(LOAD, Scenario(1, size), slots=1, no_waiting=True, warehouse=url)
    if figures["result"] != size:
        raise RuntimeError(f"{figures['result']} of {size} IDs landed in {engine}.")
    bench.add("ids", f"{LOAD.name} into {engine}", size=size, **_seconds(figures))


@contextmanager
def _duckdb() -> Iterator[str]:
    """The URL of a new file."""
    with TemporaryDirectory() as folder:
        yield f"duckdb:///{folder}/sessions.duckdb"


@contextmanager
def _postgres() -> Iterator[str]:
    """The URL of a new server."""
    programs = postgres_programs()
    if programs is None:
        raise RuntimeError("PostgreSQL is not installed. See tests/warehouses.py.")
    server = PostgresServer(programs)
    server.start()
    try:
        yield f"postgresql://{server.address}/postgres"
    finally:
        server.stop()


def _first_submit(bench: Bench) -> float:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if jobs := bench.log().jobs:
            return jobs[0].submitted
        time.sleep(0.05)
    raise RuntimeError("The candidate submitted no job within a minute.")


def _requests_until(log: SandboxLog, until: float) -> Iterator[Request]:
    return (one for one in log.requests if one.at <= until)


def _count(log: SandboxLog) -> int:
    return sum(one.endpoint in {"list", "result"} for one in log.requests)


def _task(address: Address, scenario: Scenario, options: dict[str, Any]) -> Task:
    return Task(
        base_url=address.url,
        api_key=address.api_key,
        site_id=address.site_id,
        timezone=TIMEZONE,
        days=scenario.periods(),
        **options,
    )


def _seconds(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in ("seconds", "cpu_seconds", "peak_mib")}


def _import_seconds(module: str, python: str, home: str) -> float:
    baseline = _cpu_seconds("pass", python, home)
    return _cpu_seconds(f"import {module}", python, home) - baseline


def _cpu_seconds(text: str, python: str, home: str) -> float:
    before = _children_seconds()
    subprocess.run([python, "-c", text], check=True, env=environment(home))
    return _children_seconds() - before


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _format(figures: dict[str, Any]) -> str:
    return "  ".join(
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    )

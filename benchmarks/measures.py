"""What is measured, one function each. Every figure is an `Observation` in a file of JSON lines.

Contestants take turns within a round, and rounds are repeated, so that what else the machine does
strikes all of them alike. What one figure means is said where it is taken; how it is shown is in
`report`.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from benchmarks.contest import Task
from benchmarks.contestants import (
    AIRBYTE,
    DLT,
    FLOW,
    HTTPX,
    LISTING,
    LOAD,
    PEERS_PYTHON,
    RELOAD,
    Contestant,
    environment,
    run,
    started,
)
from benchmarks.floors import fewest_requests, shortest_makespan
from benchmarks.shop import TIMEZONE, Record, Scene, Shop, Stage
from tests.warehouses import PostgresServer, postgres_programs

__all__ = ["FULL", "MEASURES", "QUICK", "Bench", "Form", "Observation", "race"]

EVERYBODY = (LOAD, LISTING, HTTPX, DLT, AIRBYTE)
OK = 200
TOO_MANY_REQUESTS = 429
REQUESTS_PER_MINUTE = 200
"""Wix's budget for a site."""
UNLISTED = "unknown_status"
UNLISTED_SECONDS = 6.0
IMPORTS = {
    "prefect_wix": sys.executable,
    "prefect_wix.client": sys.executable,
    "prefect_wix.blocks": sys.executable,
    "prefect": sys.executable,
    "httpx": PEERS_PYTHON,
    "dlt": PEERS_PYTHON,
    "airbyte_cdk": PEERS_PYTHON,
}


@dataclass(frozen=True)
class Form:
    """How much of it is measured."""

    rounds: int
    even_jobs: int
    """Jobs of two seconds each."""
    mixed_jobs: int
    mixed_slots: int
    budget_jobs: int
    """Jobs under the budget of requests; none leaves that out."""
    big_ids: int
    """Ids of the one big partition."""
    big_rounds: int
    """How often it is fetched and landed: what a machine does beside it shows most here."""
    biggest_ids: int
    """Ids of one that is fetched and landed just once; none leaves that out."""
    small_jobs: int
    import_rounds: int


FULL = Form(
    rounds=3,
    even_jobs=20,
    mixed_jobs=500,
    mixed_slots=40,
    budget_jobs=500,
    big_ids=1_000_000,
    big_rounds=5,
    biggest_ids=10_000_000,
    small_jobs=1000,
    import_rounds=7,
)
QUICK = Form(
    rounds=1,
    even_jobs=8,
    mixed_jobs=12,
    mixed_slots=12,
    budget_jobs=0,
    big_ids=100_000,
    big_rounds=1,
    biggest_ids=0,
    small_jobs=50,
    import_rounds=3,
)


@dataclass(frozen=True)
class Observation:
    """One thing that one contestant did once."""

    measure: str
    who: str
    figures: dict[str, Any]


class Bench:
    """The shop that everybody asks, and the file that figures go to."""

    def __init__(self, shop: Shop, form: Form, results: Path) -> None:
        self.form = form
        self._shop = shop
        self._results = results

    def note(self, measure: str, who: str, **figures: Any) -> None:
        """Add figures to the results, and say them."""
        observation = Observation(measure, who, figures)
        with self._results.open("a") as file:
            file.write(json.dumps(asdict(observation)) + "\n")
        print(f"{measure:10} {who:26} {_in_short(figures)}", flush=True)

    def lets(
        self, contestant: Contestant, scene: Scene, **task: Any
    ) -> tuple[dict[str, Any], Record]:
        """Let a contestant fetch a scene. What it told, and what the shop saw."""
        with self.stage(scene, **task) as given:
            figures = run(contestant, given)
            return figures, self._shop.record()

    @contextmanager
    def stage(self, scene: Scene, **task: Any) -> Iterator[Task]:
        """Open a sandbox and an empty DuckDB file for one task."""
        with self._shop.plays(scene) as stage, _duckdb() as url:
            yield _task(stage, scene, {"warehouse": url} | task)

    def record(self) -> Record:
        """What the open sandbox has seen so far."""
        return self._shop.record()


def even_jobs(bench: Bench) -> None:
    """Jobs of exactly two seconds on four slots, with no budget of requests."""
    scene = Scene(bench.form.even_jobs, 400 * bench.form.even_jobs, job_seconds=(2.0, 2.0))
    for _ in range(bench.form.rounds):
        for contestant in EVERYBODY:
            race(bench, "even", contestant, scene, slots=4)


def mixed_jobs(bench: Bench) -> None:
    """Jobs of half a second to six on many slots, with no budget of requests."""
    scene = Scene(bench.form.mixed_jobs, 100 * bench.form.mixed_jobs, job_seconds=(0.5, 6.0))
    for contestant in EVERYBODY:
        race(bench, "mixed", contestant, scene, slots=bench.form.mixed_slots)


def jobs_under_budget(bench: Bench) -> None:
    """The mixed jobs where the sandbox refuses what is beyond Wix's budget. For us alone."""
    jobs, slots = bench.form.budget_jobs, bench.form.mixed_slots
    if jobs:
        scene = Scene(jobs, 100 * jobs, (0.5, 6.0), requests_per_minute=REQUESTS_PER_MINUTE)
        race(bench, "budget", LOAD, scene, slots=slots, requests_per_minute=REQUESTS_PER_MINUTE)


def big_partitions(bench: Bench) -> None:
    """One day of very many ids, from submit to landed, beside the bare fetch of its pages."""
    size = bench.form.big_ids
    for _ in range(bench.form.big_rounds):
        _fetch_big_partition(bench, size, pages_in_flight=1)
        _fetch_big_partition(bench, size, pages_in_flight=4)
        _land_big_partition(bench, size, "DuckDB", _duckdb)
        _land_big_partition(bench, size, "PostgreSQL", _postgres)


def biggest_partition(bench: Bench) -> None:
    """A day ten times as big, once, to see what memory does."""
    if size := bench.form.biggest_ids:
        _fetch_big_partition(bench, size, pages_in_flight=1)
        _land_big_partition(bench, size, "DuckDB", _duckdb)


def small_jobs(bench: Bench) -> None:
    """Very many jobs of ten ids that are done at once: what is left is work.

    Waits are skipped on the client's clock and the plain script polls at once, so that all do the
    same two requests a job. What one takes beyond the plain script is its overhead.
    """
    for _ in range(bench.form.rounds):
        for contestant in (HTTPX, LISTING, LOAD, FLOW):
            _do_small_jobs(bench, contestant)


def _do_small_jobs(bench: Bench, contestant: Contestant) -> None:
    jobs = bench.form.small_jobs
    scene = Scene(jobs, 10 * jobs)
    told, record = bench.lets(contestant, scene, slots=8, tick_seconds=0.0, no_waiting=True)
    requests = _count(record) / jobs
    bench.note("small", contestant.name, jobs=jobs, requests_per_job=requests, **_seconds(told))


def reruns(bench: Bench) -> None:
    """Days that have not changed are loaded again: how many rows are written."""
    scene = Scene(days=10, sessions=20_000)
    replace = Contestant("dlt, replace", DLT.python, DLT.module, "replace")
    merge = Contestant("dlt, merge", DLT.python, DLT.module, "merge")
    for contestant in (RELOAD, replace, merge):
        told, _ = bench.lets(contestant, scene, slots=4, tick_seconds=0.05)
        bench.note("rerun", contestant.name, rows=told["result"], of=scene.sessions)


def unlisted_status(bench: Bench) -> None:
    """One job answers a status that nobody has documented: how often it is polled meanwhile."""
    scene = Scene(days=1, sessions=10, faults=(UNLISTED,))
    for contestant in (LOAD, HTTPX, DLT, AIRBYTE):
        with (
            bench.stage(scene, slots=1) as task,
            TemporaryFile() as output,
            started(contestant, task, output),
        ):
            submitted = _first_submit(bench)
            time.sleep(UNLISTED_SECONDS)
            until = submitted + UNLISTED_SECONDS
            polls = sum(one.endpoint == "result" for one in _before(bench.record(), until))
        bench.note("unlisted", contestant.name, polls=polls, seconds=UNLISTED_SECONDS)


def imports(bench: Bench) -> None:
    """What CPU time an import takes, beyond an interpreter that imports nothing."""
    with TemporaryDirectory() as home:
        for module, python in IMPORTS.items():
            _import_seconds(module, python, home)  # compiles what is not compiled yet
        for _ in range(bench.form.import_rounds):
            for module, python in IMPORTS.items():
                seconds = _import_seconds(module, python, home)
                bench.note("import", module, milliseconds=1000 * seconds)


MEASURES = (
    imports,
    unlisted_status,
    reruns,
    even_jobs,
    mixed_jobs,
    small_jobs,
    big_partitions,
    biggest_partition,
    jobs_under_budget,
)


def race(bench: Bench, measure: str, contestant: Contestant, scene: Scene, **task: Any) -> None:
    """Let a contestant fetch many jobs, and note its figures beside their floors."""
    told, record = bench.lets(contestant, scene, **task)
    expected = sum(job.sessions for job in record.jobs)
    if told["result"] != expected:
        raise RuntimeError(f"{contestant.name} brought {told['result']} of {expected} sessions")
    bench.note(
        measure,
        contestant.name,
        jobs=len(record.jobs),
        slots=task["slots"],
        **_floors(record, scene, task["slots"]),
        **_requests(record),
        **_seconds(told),
    )


def _floors(record: Record, scene: Scene, slots: int) -> dict[str, float]:
    fewest = sum(fewest_requests(job.sessions) for job in record.jobs)
    seconds = shortest_makespan(
        [job.ready - job.submitted for job in record.jobs],
        slots,
        requests=fewest,
        requests_per_minute=scene.requests_per_minute,
    )
    return {"floor_seconds": seconds, "floor_requests": fewest / len(record.jobs)}


def _requests(record: Record) -> dict[str, float]:
    """What the shop saw of a race."""
    delays = _delays(record)
    return {
        "requests_per_job": _count(record) / len(record.jobs),
        "refused": sum(one.status == TOO_MANY_REQUESTS for one in record.requests),
        "delay_median": statistics.median(delays),
        "delay_p95": statistics.quantiles(delays, n=20, method="inclusive")[-1],
    }


def _delays(record: Record) -> list[float]:
    """How many seconds each job was finished before somebody asked and was told so."""
    ready = {job.job_id: job.ready for job in record.jobs}
    noticed: dict[str, float] = {}
    for one in record.requests:
        job_id = one.job_id or ""
        if one.endpoint == "result" and one.status == OK and one.at >= ready[job_id]:
            noticed.setdefault(job_id, one.at)
    return [at - ready[job_id] for job_id, at in noticed.items()]


def _fetch_big_partition(bench: Bench, size: int, *, pages_in_flight: int) -> None:
    told, _ = bench.lets(
        HTTPX, Scene(1, size), slots=1, tick_seconds=0.0, pages_in_flight=pages_in_flight
    )
    who = f"{HTTPX.name}, {pages_in_flight} in flight"
    bench.note("ids", who, size=size, **_seconds(told))


def _land_big_partition(
    bench: Bench, size: int, engine: str, warehouse: Callable[[], AbstractContextManager[str]]
) -> None:
    with warehouse() as url:
        told, _ = bench.lets(LOAD, Scene(1, size), slots=1, no_waiting=True, warehouse=url)
    if told["result"] != size:
        raise RuntimeError(f"{told['result']} of {size} ids landed in {engine}")
    bench.note("ids", f"{LOAD.name} into {engine}", size=size, **_seconds(told))


@contextmanager
def _duckdb() -> Iterator[str]:
    """A new file."""
    with TemporaryDirectory() as folder:
        yield f"duckdb:///{folder}/sessions.duckdb"


@contextmanager
def _postgres() -> Iterator[str]:
    """A new server."""
    programs = postgres_programs()
    if programs is None:
        raise RuntimeError("There is no PostgreSQL to land in: see tests/warehouses.py.")
    server = PostgresServer(programs)
    server.start()
    try:
        yield f"postgresql://{server.address}/postgres"
    finally:
        server.stop()


def _first_submit(bench: Bench) -> float:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if jobs := bench.record().jobs:
            return jobs[0].submitted
        time.sleep(0.05)
    raise RuntimeError("nobody submitted a job within a minute")


def _before(record: Record, until: float) -> Iterator[Any]:
    return (one for one in record.requests if one.at <= until)


def _count(record: Record) -> int:
    return sum(one.endpoint in {"list", "result"} for one in record.requests)


def _task(stage: Stage, scene: Scene, told: dict[str, Any]) -> Task:
    return Task(
        base_url=stage.url,
        api_key=stage.api_key,
        site_id=stage.site_id,
        timezone=TIMEZONE,
        days=scene.periods(),
        **told,
    )


def _seconds(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told[name] for name in ("seconds", "cpu_seconds", "peak_mib")}


def _import_seconds(module: str, python: str, home: str) -> float:
    bare = _cpu_seconds("pass", python, home)
    return _cpu_seconds(f"import {module}", python, home) - bare


def _cpu_seconds(text: str, python: str, home: str) -> float:
    before = _children_seconds()
    subprocess.run([python, "-c", text], check=True, env=environment(home))
    return _children_seconds() - before


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _in_short(figures: dict[str, Any]) -> str:
    return "  ".join(
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    )

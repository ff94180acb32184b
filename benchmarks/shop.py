"""Wix, played by one process of its own for as long as the benchmark runs.

The process opens one sandbox after the other, each with an empty record, and tells afterwards what
it saw. What is measured from that record is measured the same way for every contestant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Self

from prefect_wix.sandbox import Fault, Sandbox, World, running

__all__ = ["Job", "Record", "Request", "Scene", "Shop", "Stage"]

TIMEZONE = "Asia/Jerusalem"
NOW = datetime(2024, 3, 15, 10, 0, tzinfo=UTC)
"""The sandbox's today. Every day that is asked for is over by then."""


@dataclass(frozen=True)
class Scene:
    """A shop's sessions, and how Wix behaves."""

    days: int
    """How many local days there are, the last of them the day before today."""
    sessions: int
    """How many sessions they hold together."""
    job_seconds: tuple[float, float] = (0.0, 0.0)
    """The least and the most that a job takes; drawn with the same seed for every contestant."""
    requests_per_minute: int | None = None
    """The budget that the sandbox enforces."""
    faults: tuple[str, ...] = ()
    """What goes wrong, as on the sandbox's command line."""

    def periods(self) -> tuple[tuple[str, str], ...]:
        """Each day with the day after it, as dates."""
        first = NOW.date() - timedelta(days=self.days)
        days = [first + timedelta(days=n) for n in range(self.days)]
        return tuple((str(day), str(day + timedelta(days=1))) for day in days)


@dataclass(frozen=True)
class Stage:
    """A running sandbox: where it is and who may ask."""

    url: str
    api_key: str
    site_id: str


@dataclass(frozen=True)
class Request:
    """One request that arrived."""

    endpoint: str
    at: float
    """Seconds on the machine's monotonic clock."""
    status: int | None
    job_id: str | None


@dataclass(frozen=True)
class Job:
    """One job that was started."""

    job_id: str
    submitted: float
    ready: float
    """When it finished, on the same clock."""
    sessions: int


@dataclass(frozen=True)
class Record:
    """What a sandbox saw."""

    requests: tuple[Request, ...]
    jobs: tuple[Job, ...]


class Shop:
    """The process. Use it as ``with``."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs,), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        self._process.join()

    @contextmanager
    def plays(self, scene: Scene) -> Iterator[Stage]:
        """Open a sandbox for a scene until the block is left."""
        self._pipe.send(scene)
        stage: Stage = self._pipe.recv()
        try:
            yield stage
        finally:
            self._pipe.send("close")

    def record(self) -> Record:
        """What the open sandbox has seen so far."""
        self._pipe.send("record")
        record: Record = self._pipe.recv()
        return record


def _serve(pipe: Connection) -> None:
    while True:
        scene: Scene = pipe.recv()
        with _running(scene) as sandbox:
            pipe.send(Stage(sandbox.url, sandbox.api_key, sandbox.site_id))
            while pipe.recv() == "record":
                pipe.send(_record(sandbox))


@contextmanager
def _running(scene: Scene) -> Iterator[Sandbox]:
    with running(
        _world(scene.sessions, scene.days, NOW.date()),
        faults=map(Fault.parse, scene.faults),
        job_seconds=scene.job_seconds,
        requests_per_minute=scene.requests_per_minute,
        now=NOW,
    ) as sandbox:
        yield sandbox


@lru_cache(maxsize=1)
def _world(sessions: int, days: int, end: date) -> World:
    return World.generate(sessions=sessions, days=days, end=end, timezone=TIMEZONE)


def _record(sandbox: Sandbox) -> Record:
    requests = [Request(one.endpoint, one.at, one.status, one.job_id) for one in sandbox.requests]
    jobs = [
        Job(job.id, job.submitted, job.ready, len(job.sessions)) for job in sandbox.jobs.values()
    ]
    return Record(tuple(requests), tuple(jobs))

"""A process that runs the Wix sandbox for the candidates.

It runs one sandbox after the other, each with an empty log, and returns the log of requests and
jobs. All figures about requests come from this log, so they are measured alike for every candidate.
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

__all__ = ["Address", "Job", "Request", "SandboxLog", "SandboxProcess", "Scenario"]

TIMEZONE = "Asia/Jerusalem"
NOW = datetime(2024, 3, 15, 10, 0, tzinfo=UTC)
"""The current time of the sandbox. All days of a scenario are over by then."""


@dataclass(frozen=True)
class Scenario:
    """The sessions of a site, and how Wix behaves."""

    days: int
    """The number of local days. The last one is the day before `NOW`."""
    sessions: int
    """The number of sessions on all days together."""
    job_seconds: tuple[float, float] = (0.0, 0.0)
    """The shortest and longest duration of a job; drawn with one seed for all candidates."""
    requests_per_minute: int | None = None
    """The rate limit that the sandbox enforces."""
    faults: tuple[str, ...] = ()
    """The active faults, as on the sandbox's command line."""

    def periods(self) -> tuple[tuple[str, str], ...]:
        """Each day and the day after it, as ISO dates."""
        first = NOW.date() - timedelta(days=self.days)
        days = [first + timedelta(days=n) for n in range(self.days)]
        return tuple((str(day), str(day + timedelta(days=1))) for day in days)


@dataclass(frozen=True)
class Address:
    """The base URL and credentials of a running sandbox."""

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
    """One job that was submitted."""

    job_id: str
    submitted: float
    """When it was submitted, in seconds on the machine's monotonic clock."""
    ready: float
    """When it finished, in seconds on the machine's monotonic clock."""
    sessions: int


@dataclass(frozen=True)
class SandboxLog:
    """The requests and jobs of one sandbox."""

    requests: tuple[Request, ...]
    jobs: tuple[Job, ...]


class SandboxProcess:
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
    def runs(self, scenario: Scenario) -> Iterator[Address]:
        """Run a sandbox for a scenario until the block is left."""
        self._pipe.send(scenario)
        address: Address = self._pipe.recv()
        try:
            yield address
        finally:
            self._pipe.send("close")

    def log(self) -> SandboxLog:
        """The requests and jobs of the running sandbox so far."""
        self._pipe.send("log")
        log: SandboxLog = self._pipe.recv()
        return log


def _serve(pipe: Connection) -> None:
    while True:
        scenario: Scenario = pipe.recv()
        with _running(scenario) as sandbox:
            pipe.send(Address(sandbox.url, sandbox.api_key, sandbox.site_id))
            while pipe.recv() == "log":
                pipe.send(_log_of(sandbox))


@contextmanager
def _running(scenario: Scenario) -> Iterator[Sandbox]:
    with running(
        _world(scenario.sessions, scenario.days, NOW.date()),
        faults=map(Fault.parse, scenario.faults),
        job_seconds=scenario.job_seconds,
        requests_per_minute=scenario.requests_per_minute,
        now=NOW,
    ) as sandbox:
        yield sandbox


@lru_cache(maxsize=1)
def _world(sessions: int, days: int, end: date) -> World:
    return World.generate(sessions=sessions, days=days, end=end, timezone=TIMEZONE)


def _log_of(sandbox: Sandbox) -> SandboxLog:
    requests = [Request(one.endpoint, one.at, one.status, one.job_id) for one in sandbox.requests]
    jobs = [
        Job(job.id, job.submitted, job.ready, len(job.sessions)) for job in sandbox.jobs.values()
    ]
    return SandboxLog(tuple(requests), tuple(jobs))

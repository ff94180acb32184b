"""The candidates, and how each is started: one process per task, in its own environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

from benchmarks.task import Task, parse_figures

__all__ = [
    "AIRBYTE",
    "DLT",
    "FLOW",
    "HTTPX",
    "LIMITED_DLT",
    "LIMITED_HTTPX",
    "LISTING",
    "LOAD",
    "PEERS_PYTHON",
    "RELOAD",
    "ROOT",
    "Candidate",
    "environment",
    "run",
    "started",
]

ROOT = Path(__file__).parents[1]
PEERS_PYTHON = str(ROOT / "benchmarks" / ".venv" / "bin" / "python")
TIMEOUT_SECONDS = 1200.0
# The last one would let an import of prefect_wix compile it, which pip does for the others.
_FOREIGN = ("PREFECT", "WIX", "DLT", "RUNTIME__", "AIRBYTE", "PYTHONDONTWRITEBYTECODE")


@dataclass(frozen=True)
class Candidate:
    """A program that is measured."""

    name: str
    python: str
    module: str
    verb: str = ""

    def command(self, task: Task) -> list[str]:
        """The command line for a task."""
        words = [self.python, "-m", self.module, self.verb, task.to_json()]
        return [word for word in words if word]


LOAD = Candidate("prefect-wix", sys.executable, "benchmarks.ours", "load")
LISTING = Candidate("prefect-wix, fetch only", sys.executable, "benchmarks.ours", "list")
RELOAD = Candidate("prefect-wix", sys.executable, "benchmarks.ours", "reload")
FLOW = Candidate("prefect-wix by Prefect", sys.executable, "benchmarks.ours_by_prefect")
AIRBYTE = Candidate("airbyte-cdk", PEERS_PYTHON, "benchmarks.peers.with_airbyte")
DLT = Candidate("dlt rest_client", PEERS_PYTHON, "benchmarks.peers.with_dlt", "fetch")
LIMITED_DLT = replace(DLT, verb="limited")
HTTPX = Candidate("plain httpx", PEERS_PYTHON, "benchmarks.peers.with_httpx")
LIMITED_HTTPX = replace(HTTPX, module="benchmarks.peers.with_httpx_limited")


def run(candidate: Candidate, task: Task) -> dict[str, Any]:
    """Run a candidate with a task and return its figures.

    Raises:
        RuntimeError: it failed.
    """
    with TemporaryFile() as file:
        with started(candidate, task, file) as process:
            code = process.wait(TIMEOUT_SECONDS)
        file.seek(0)
        output = file.read().decode()
    if code:
        raise RuntimeError(f"{candidate.name} ended with exit code {code}: {output[-2000:]}")
    return parse_figures(output)


@contextmanager
def started(
    candidate: Candidate, task: Task, output: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a candidate; leaving the block kills its process group.

    The output goes to a file, since a full pipe would block the candidate.
    """
    with TemporaryDirectory() as home:
        process = subprocess.Popen(
            candidate.command(task),
            cwd=ROOT,
            env=environment(home),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def environment(home: str) -> dict[str, str]:
    """The environment of every candidate: no settings of the caller, no telemetry, one folder."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(_FOREIGN)}
    return inherited | {
        "DO_NOT_TRACK": "1",
        "no_proxy": "127.0.0.1,localhost",  # the sandbox
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": f"{home}/prefect",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "DLT_DATA_DIR": f"{home}/dlt",
        "DLT_PROJECT_DIR": home,
    }

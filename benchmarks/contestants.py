"""Who takes part, and how each is started: one process for one task, in its own environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

from benchmarks.contest import Task, figures_in

__all__ = [
    "AIRBYTE",
    "DLT",
    "FLOW",
    "HTTPX",
    "LISTING",
    "LOAD",
    "PEERS_PYTHON",
    "RELOAD",
    "Contestant",
    "environment",
    "run",
    "started",
]

ROOT = Path(__file__).parents[1]
PEERS_PYTHON = str(ROOT / "benchmarks" / ".venv" / "bin" / "python")
TIMEOUT_SECONDS = 1200.0
_FOREIGN = ("PREFECT", "WIX", "DLT", "RUNTIME__", "AIRBYTE")


@dataclass(frozen=True)
class Contestant:
    """A program that takes part."""

    name: str
    python: str
    module: str
    verb: str = ""

    def command(self, task: Task) -> list[str]:
        """How it is started with a task."""
        words = [self.python, "-m", self.module, self.verb, task.to_json()]
        return [word for word in words if word]


LOAD = Contestant("prefect-wix", sys.executable, "benchmarks.ours", "load")
LISTING = Contestant("prefect-wix, fetch only", sys.executable, "benchmarks.ours", "list")
RELOAD = Contestant("prefect-wix", sys.executable, "benchmarks.ours", "reload")
FLOW = Contestant("prefect-wix by Prefect", sys.executable, "benchmarks.ours_by_prefect")
AIRBYTE = Contestant("airbyte-cdk", PEERS_PYTHON, "benchmarks.peers.with_airbyte")
DLT = Contestant("dlt rest_client", PEERS_PYTHON, "benchmarks.peers.with_dlt", "fetch")
HTTPX = Contestant("plain httpx", PEERS_PYTHON, "benchmarks.peers.with_httpx")


def run(contestant: Contestant, task: Task) -> dict[str, Any]:
    """Give a contestant a task and return the figures that it tells.

    Raises:
        RuntimeError: it failed.
    """
    with TemporaryFile() as output:
        with started(contestant, task, output) as process:
            code = process.wait(TIMEOUT_SECONDS)
        output.seek(0)
        said = output.read().decode()
    if code:
        raise RuntimeError(f"{contestant.name} ended with {code}: {said[-2000:]}")
    return figures_in(said)


@contextmanager
def started(
    contestant: Contestant, task: Task, output: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a contestant; what still runs of it when the block is left is ended.

    What it says goes to a file, since a pipe that nobody reads would stop it.
    """
    with TemporaryDirectory() as home:
        process = subprocess.Popen(
            contestant.command(task),
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
    """The same for everybody: no settings of the caller's, no telemetry, state in one folder."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(_FOREIGN)}
    return inherited | {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": f"{home}/prefect",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "DLT_DATA_DIR": f"{home}/dlt",
        "DLT_PROJECT_DIR": home,
    }

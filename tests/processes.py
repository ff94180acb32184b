"""Background processes for tests, their environment, and free ports."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
from filelock import FileLock

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def make_environment(folder, programs=BIN):
    """An environment with Prefect's files in the folder, and these programs first on PATH."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "WIX"))
    }
    home = folder / ".prefect"
    if not home.exists():
        home.mkdir(parents=True)
        shutil.copy(_empty_database(), home / "prefect.db")
    return {
        **inherited,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        # Prefect's default of 20 s is too short while other tests run.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # Workers and runners look for runs every 10 s by default.
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        # Each client requests a token first, which the server does not use.
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
        # By default each event of a task run is a transaction: half of the CPU of a server.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _empty_database():
    """A database of this Prefect, made once per environment: its migrations take 14 s of CPU."""
    made = Path(sys.prefix) / f"prefect-{version('prefect')}.db"
    with FileLock(f"{made}.lock"):
        if not made.exists():
            unfinished = made.with_suffix(".new")
            unfinished.unlink(missing_ok=True)
            settings = {
                "DO_NOT_TRACK": "1",
                "PREFECT_HOME": str(made.with_suffix(".home")),
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{unfinished}",
            }
            upgrade = [BIN / "prefect", "server", "database", "upgrade", "-y"]
            subprocess.run(upgrade, env=os.environ | settings, capture_output=True, check=True)
            unfinished.replace(made)
    return made


def free_port():
    """A port that no process listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def background(command, *, cwd, env, log):
    """Run a shell command until the block is left, then end its process group."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=cwd,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process):
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            continue


def wait_until(condition, *, seconds, what):
    """The condition's result once it is true; fails after the seconds with what did not happen."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(0.25)
    return result


def responds(url):
    """Whether a GET of the URL succeeds."""
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False

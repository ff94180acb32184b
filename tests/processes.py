"""Processes of their own for tests: a copy of the project to run in, and servers on free ports."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
FOLDERS = ("flows", "blocks", "deployments")


def check_out(place):
    """Copy the project's top-level folders to a place; the place."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, place / folder)
    return place


def make_environment(folder):
    """An environment with Prefect's files in a folder, and this Python first on the path."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "WIX"))
    }
    return {
        **inherited,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(folder / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        # Its own 20 s are short where other tests are at work.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }


def free_port():
    """A port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def background(command, *, cwd, env, log):
    """Run a shell command until the block is left; it and its children are ended by process id."""
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
    for number, poll_policy in ((signal.SIGINT, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(poll_policy)
        except subprocess.TimeoutExpired:
            continue


def wait_until(there, *, seconds, what):
    """Return when a condition holds."""
    deadline = time.monotonic() + seconds
    while not there():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(0.2)


def answers(url):
    """Whether a GET of the address succeeds."""
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False

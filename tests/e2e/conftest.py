"""Processes of their own: a copy of the project to run in, servers on free ports, a browser."""

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
import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FOLDERS = ("flows", "blocks", "deployments")


@pytest.fixture
def checkout(tmp_path):
    """The project's top-level folders in a place where a test may write."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


@pytest.fixture
def environment(tmp_path):
    """An environment with a Prefect of its own and this Python first on the path."""
    return make_environment(tmp_path)


def make_environment(folder):
    """The same, with Prefect's files in a folder."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "WIX"))
    }
    return {
        **inherited,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(folder / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }


# One for each test: while it is open its event loop runs, and asynchronous tests could not.
@pytest.fixture
def browser():
    """A headless Chromium of this machine, or a skip that says that there is none."""
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    program = next(filter(None, found), None)
    if program is None:
        pytest.skip("no chromium or google-chrome on PATH")
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not run as root, and the pages are ours.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


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
    for number, patience in ((signal.SIGINT, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
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

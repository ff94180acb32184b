"""The project copied, deployed or looked at in a browser; see `processes`."""

from __future__ import annotations

import shutil

import pytest
from playwright.sync_api import sync_playwright

from tests.e2e.deployed import deploy
from tests.processes import check_out, make_environment


@pytest.fixture
def checkout(tmp_path):
    """The project's top-level folders in a place where a test may write."""
    return check_out(tmp_path)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory, postgres_server):
    """Everything deployed on one server, for the tests of the group of that name."""
    with deploy(tmp_path_factory.mktemp("deployed"), postgres_server) as stage:
        yield stage


@pytest.fixture
def environment(tmp_path):
    """An environment with a Prefect of its own and this Python first on the path."""
    return make_environment(tmp_path)


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

"""Fixtures: the deployments on real servers, and a browser."""

from __future__ import annotations

import shutil

import pytest
from playwright.sync_api import sync_playwright

from tests.e2e.deployed import deploy
from tests.options import skip_without
from tests.processes import make_environment


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marks
def pytest_collection_modifyitems(items):
    """Mark the tests that use a browser."""
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory, postgres_server):
    """All deployments on one server, for the tests of an xdist group."""
    with deploy(tmp_path_factory.mktemp("deployed"), postgres_server) as stage:
        yield stage


@pytest.fixture
def environment(tmp_path):
    """An environment with its own Prefect profile and this Python first on PATH."""
    return make_environment(tmp_path)


# Function scope: an open browser keeps an event loop running, which blocks asynchronous tests.
@pytest.fixture
def browser():
    """A headless Chromium of this machine; skips the test if there is none."""
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    program = next(filter(None, found), None)
    if program is None:
        skip_without("A browser (chromium or google-chrome on PATH)")
    with sync_playwright() as playwright:
        # Chromium's sandbox does not run as root; the pages are trusted.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()

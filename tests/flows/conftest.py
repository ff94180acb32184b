"""Fixtures: a real Prefect server for the session, and blocks for the sandbox shop."""

from __future__ import annotations

import gc
import warnings
from functools import partialmethod
from pathlib import Path
from random import Random

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOCAL_STORAGE_PATH,
    temporary_settings,
)

from prefect_wix import SessionsWarehouse, WixCredentials
from prefect_wix.jobs.poll_policy import PollPolicy
from tests.prefect_server import prefect_server as start_server
from tests.warehouses import postgres_programs

MARKS = (
    # Prefect leaves its sockets to the garbage collector; tests/unit checks ours.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    """Add the marks to the tests in this folder; two processes run them, each with a server."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            half = 1 if item.path.name < "test_load" else 2
            for mark in (*MARKS, pytest.mark.xdist_group(f"prefect-{half}")):
                item.add_marker(mark)


@pytest.fixture(scope="session", autouse=True)
def prefect_server(request, tmp_path_factory):
    """One server, database and result storage for the tests of a process."""
    postgres = request.getfixturevalue("postgres_server") if postgres_programs() else None
    with start_server(tmp_path_factory.mktemp("prefect"), postgres, ui=False) as server:
        settings = {
            PREFECT_API_URL: server.api,
            PREFECT_LOCAL_STORAGE_PATH: server.folder / "results",
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            # Each client requests a token first, which the server does not use.
            PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False,
        }
        with temporary_settings(settings):
            yield server
            # Send queued logs and events before the server stops.
            APILogWorker.drain_all(timeout=30)
            EventsWorker.drain_all(timeout=30)


@pytest.fixture(scope="session", autouse=True)
def separate_random_state():
    """Prefect's threads outlive a test; Hypothesis fails if they use the global random state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect.utilities.math.random", Random())
        patch.setattr("websockets.asyncio.connection.random", Random())
        yield


@pytest.fixture(autouse=True)
def collect_garbage():
    """Collect what Prefect's clients left here, and not during a later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def early_first_poll(monkeypatch):
    """The jobs of a shop finish at once; by default, each load waits 1 s before its first poll."""
    early = partialmethod(PollPolicy.__init__, first_wait_seconds=0.1)
    monkeypatch.setattr(PollPolicy, "__init__", early)


@pytest.fixture
def shop(shop, early_first_poll):
    """A running sandbox."""
    return shop


@pytest.fixture
def credentials(shop):
    """The shop's API key as a block."""
    return WixCredentials(
        api_key=shop.api_key, site_id=shop.site_id, base_url=shop.url, requests_per_minute=100_000
    )


@pytest.fixture
def database(tmp_path):
    """The path of the warehouse file."""
    return tmp_path / "sessions.duckdb"


@pytest.fixture
def warehouse(database):
    """An empty DuckDB warehouse, as a block."""
    return SessionsWarehouse(url=f"duckdb:///{database}")


@pytest.fixture
def artifacts():
    """A function that reads the artifacts of a key, newest first."""

    async def read(key):
        async with get_client() as client:
            found = await client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
            )
        return sorted(found, key=lambda one: one.created, reverse=True)

    return read

"""A real Prefect server for the session, and blocks for the sandbox shop."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOCAL_STORAGE_PATH,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

from prefect_wix import SessionsWarehouse, WixCredentials

MARKS = (
    # Everything that needs the Prefect server runs in one process, which has one.
    pytest.mark.xdist_group("prefect"),
    # Prefect leaves sockets of its own to the garbage collector; ours are watched in tests/unit.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
)


def pytest_collection_modifyitems(items):
    """Mark what is in this folder."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for mark in MARKS:
                item.add_marker(mark)


@pytest.fixture(scope="session", autouse=True)
def prefect_server(tmp_path_factory):
    """One server, database and result storage for the session."""
    storage = tmp_path_factory.mktemp("results")
    with (
        temporary_settings(
            {PREFECT_LOCAL_STORAGE_PATH: storage, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
        ),
        prefect_test_harness(server_startup_timeout=60),
    ):
        yield storage


@pytest.fixture(autouse=True)
def leave_nothing_for_other_tests():
    """What Prefect's clients left behind goes here, and not in the midst of another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def credentials(shop):
    """The shop's API key, as a block."""
    return WixCredentials(
        api_key=shop.api_key, site_id=shop.site_id, base_url=shop.url, requests_per_minute=100_000
    )


@pytest.fixture
def database(tmp_path):
    """Where the warehouse file is."""
    return tmp_path / "sessions.duckdb"


@pytest.fixture
def warehouse(database):
    """An empty DuckDB warehouse, as a block."""
    return SessionsWarehouse(url=f"duckdb:///{database}")


@pytest.fixture
def artifacts():
    """Read the artifacts of a key, the newest first."""

    async def read(key):
        async with get_client() as client:
            found = await client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
            )
        return sorted(found, key=lambda one: one.created, reverse=True)

    return read

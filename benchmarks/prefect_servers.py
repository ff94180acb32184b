"""The throughput of a Prefect server on SQLite and on PostgreSQL, in slots per second.

Run by ``python -m benchmarks.prefect_servers``. Both servers run during the whole measurement and
are measured one after the other in each round. It measures slots of rate limits, since these are a
large share of the requests that loads of many sites send to the server.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect.concurrency.asyncio import rate_limit
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_wix.blocks.shared_limit import limit_name, save_limit
from tests.prefect_server import PrefectServer, prefect_server
from tests.warehouses import PostgresServer, postgres_programs

ROUNDS = 3
SITES_AT_ONCE = 8
SLOTS = 25
"""Slots that one site takes in a daily load; see `benchmarks.many_sites`."""
UNLIMITED = 1_000_000


async def take_slots(server: PrefectServer) -> float:
    """Slots per second that the server grants to several sites, each with its own limit."""
    with temporary_settings({PREFECT_API_URL: server.api}):
        sites = [f"site-{number}" for number in range(SITES_AT_ONCE)]
        for site in sites:
            await save_limit(site, UNLIMITED)
        started_at = time.perf_counter()
        await asyncio.gather(*map(_take, sites))
        return SITES_AT_ONCE * SLOTS / (time.perf_counter() - started_at)


async def _take(site: str) -> None:
    for _ in range(SLOTS):
        await rate_limit(limit_name(site), strict=True)


def main() -> int:
    """Print one row per round and server."""
    programs = postgres_programs()
    if programs is None:
        print("PostgreSQL is not installed on this machine.", file=sys.stderr)
        return 1
    postgres = PostgresServer(programs)
    postgres.start()
    try:
        with ExitStack() as stack:
            servers = {
                name: stack.enter_context(
                    prefect_server(Path(stack.enter_context(TemporaryDirectory())), store, ui=False)
                )
                for name, store in (("SQLite", None), ("PostgreSQL", postgres))
            }
            for number in range(1, ROUNDS + 1):
                for name, server in servers.items():
                    rate = asyncio.run(take_slots(server))
                    print(f"round {number}  {name:10}  {rate:6.1f} slots/s", flush=True)
    finally:
        postgres.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

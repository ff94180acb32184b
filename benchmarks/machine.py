"""The facts of a measurement: machine, versions, date."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

__all__ = ["describe"]

OURS = ("prefect", "httpx", "pydantic", "duckdb", "asyncpg")
PEERS = Path(__file__).with_name("peers.txt")


def describe() -> dict[str, str]:
    """The facts by name, as text."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": f"{_cpu()}, {len(os.sched_getaffinity(0))} cores, {_memory()}",
        "load": f"{os.getloadavg()[0]:.1f} (1 minute average) before the first measure",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in OURS),
        "peers": ", ".join(_peers()),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _memory() -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{pages / 2**30:.0f} GiB"


def _peers() -> list[str]:
    lines = PEERS.read_text().splitlines()
    return [line.replace("==", " ") for line in lines if not line.startswith("#")]

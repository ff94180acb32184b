"""Which engine a URL means."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from prefect_wix.warehouse.duckdb import DuckDBWarehouse
from prefect_wix.warehouse.interface import Warehouse

__all__ = ["open_warehouse"]


def open_warehouse(url: str, *, schema: str | None = None) -> Warehouse:
    """The warehouse that a URL names. Nothing is opened yet.

    Args:
        url: ``duckdb:///sessions.duckdb`` (relative), ``duckdb:////data/sessions.duckdb``
            (absolute), either with DuckDB's settings as ``?memory_limit=512MB``; or ``md:name``.
        schema: where the tables are; the engine's usual one if left out.

    Raises:
        ValueError: no engine is known for it.
        MissingExtraError: the engine's package is not installed.
    """
    if schema is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", schema):
        raise ValueError(
            f"schema {schema!r} must be letters, digits and underscores, 63 at most, "
            "and not begin with a digit."
        )
    parts = urlsplit(url)
    if parts.scheme == "duckdb" and not parts.netloc and len(parts.path) > 1:
        config = dict(parse_qsl(parts.query))
        return DuckDBWarehouse(unquote(parts.path[1:]), schema=schema or "main", config=config)
    if parts.scheme == "md":
        return DuckDBWarehouse(url, schema=schema or "main")
    raise ValueError(
        f"No warehouse is known for a URL that begins with {parts.scheme or 'nothing'}:// . Use "
        "duckdb:///sessions.duckdb (three slashes: relative; four: absolute) or md:name."
    )

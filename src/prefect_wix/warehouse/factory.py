"""Which engine a URL means."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qsl, unquote, urlsplit

from prefect_wix.warehouse.adbc import POSTGRESQL, SNOWFLAKE, AdbcWarehouse
from prefect_wix.warehouse.bigquery import BigQueryWarehouse
from prefect_wix.warehouse.duckdb import DuckDBWarehouse
from prefect_wix.warehouse.interface import Warehouse
from prefect_wix.warehouse.parquet import ParquetWarehouse
from prefect_wix.warehouse.postgres import PostgresWarehouse, place_of
from prefect_wix.warehouse.stores import Folder, ObjectStore

__all__ = ["open_warehouse"]


def open_warehouse(url: str, *, schema: str | None = None) -> Warehouse:
    """The warehouse that a URL names. Nothing is opened yet.

    Args:
        url: one of

            - ``duckdb:///sessions.duckdb`` (three slashes: a relative path; four: an absolute
              one), with DuckDB's settings as ``?memory_limit=2GB``; or ``md:name``;
            - ``postgresql://user:password@host:5432/database``;
            - ``adbc+postgresql://…``: the same by ADBC, for those who prefer it;
            - ``snowflake://user:password@account/database/schema?warehouse=…``;
            - ``bigquery://project/dataset``, with ``?location=EU`` where it matters, and the
              application default credentials, or ``?credentials=/path/of/key.json``;
            - ``parquet:///folder`` (relative, or absolute with four slashes) for Parquet files;
            - ``s3://bucket/prefix``, ``gs://…`` or ``abfs://…`` for Parquet files in an object
              store, which takes its credentials from the environment.
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
    open_it = _ENGINES.get(url.partition(":")[0].lower())
    if open_it is None:
        raise ValueError(f"No warehouse is known for this URL. {_FORMS}")
    return open_it(url, schema)


def _duckdb(url: str, schema: str | None) -> Warehouse:
    if url.startswith("md:"):
        return DuckDBWarehouse(url, schema=schema or "main")
    if _local_path(url) == ":memory:":
        raise ValueError("A database in memory would be gone after each transaction: name a file.")
    config = dict(parse_qsl(urlsplit(url).query))
    return DuckDBWarehouse(_local_path(url), schema=schema or "main", config=config)


def _postgres(url: str, schema: str | None) -> Warehouse:
    return PostgresWarehouse(url, schema=schema or "public")


def _adbc_postgres(url: str, schema: str | None) -> Warehouse:
    return AdbcWarehouse(
        url.partition("+")[2],
        place=place_of(url),
        dialect=POSTGRESQL,
        schema=schema or "public",
    )


def _snowflake(url: str, schema: str | None) -> Warehouse:
    names = urlsplit(url).path.split("/")[1:]
    return AdbcWarehouse(
        url.partition("://")[2],
        place=place_of(url),
        dialect=SNOWFLAKE,
        schema=schema or (names[1] if len(names) > 1 else "public"),
    )


def _bigquery(url: str, schema: str | None) -> Warehouse:
    parts = urlsplit(url)
    dataset = schema or parts.path[1:]
    options = dict(parse_qsl(parts.query))
    named = re.fullmatch(r"[A-Za-z0-9.:_-]+/[A-Za-z0-9_]+", f"{parts.netloc}/{dataset}")
    if not named or not options.keys() <= {"location", "credentials"}:
        raise ValueError(
            "Write bigquery://project/dataset, and after it no more than ?location=EU and "
            "credentials=/path/of/key.json. A user or a password has no place in it."
        )
    return BigQueryWarehouse(parts.netloc, dataset, **options)


def _parquet(url: str, schema: str | None) -> Warehouse:
    _refuse_schema(schema)
    return ParquetWarehouse(Folder(_local_path(url)))


def _object_store(url: str, schema: str | None) -> Warehouse:
    _refuse_schema(schema)
    return ParquetWarehouse(ObjectStore(url))


def _local_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc or len(parts.path) < 2:  # noqa: PLR2004 - the slash, and a name
        raise ValueError(f"A {parts.scheme}:// URL names a path and no host. {_FORMS}")
    return unquote(parts.path[1:])


def _refuse_schema(schema: str | None) -> None:
    if schema is not None:
        raise ValueError("Files have no schema: leave it out, and name another folder instead.")


_ENGINES: dict[str, Callable[[str, str | None], Warehouse]] = {
    "duckdb": _duckdb,
    "md": _duckdb,
    "postgres": _postgres,
    "postgresql": _postgres,
    "postgresql+asyncpg": _postgres,
    "adbc+postgresql": _adbc_postgres,
    "snowflake": _snowflake,
    "bigquery": _bigquery,
    "parquet": _parquet,
    **dict.fromkeys(("s3", "gs", "abfs", "memory"), _object_store),
}
_FORMS = (
    "Use duckdb:///sessions.duckdb or parquet:///folder (three slashes: relative; four: absolute), "
    "md:name, postgresql://user:password@host:5432/database, "
    "snowflake://user:password@account/database/schema?warehouse=name, bigquery://project/dataset, "
    "or s3://bucket/prefix (gs, abfs)."
)

"""The engine for a warehouse URL. What an engine does is in its own module."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qsl, unquote, urlsplit

from prefect_wix.warehouse.adbc import POSTGRESQL, SNOWFLAKE, AdbcWarehouse
from prefect_wix.warehouse.bigquery import BigQueryWarehouse
from prefect_wix.warehouse.duckdb import DuckDBWarehouse
from prefect_wix.warehouse.interface import Warehouse
from prefect_wix.warehouse.parquet import ParquetWarehouse
from prefect_wix.warehouse.postgres import PostgresWarehouse, redacted_url
from prefect_wix.warehouse.stores import Folder, ObjectStore


def open_warehouse(url: str, *, schema: str | None = None) -> Warehouse:
    """The warehouse of a URL. Opens no file and no connection.

    Args:
        url: one of

            - ``duckdb:///sessions.duckdb`` (three slashes: a relative path; four: absolute), with
              DuckDB's settings as in ``?memory_limit=2GB``; or ``md:name`` for MotherDuck;
            - ``postgresql://user:password@host:5432/database``;
            - ``adbc+postgresql://…``: the same by ADBC;
            - ``snowflake://user:password@account/database/schema?warehouse=…``;
            - ``bigquery://project/dataset``, optionally with ``?location=EU``, and with the
              application default credentials or ``?credentials=/path/of/key.json``;
            - ``parquet:///folder`` (three slashes: relative; four: absolute) for Parquet files;
            - ``s3://bucket/prefix``, ``gs://…`` or ``abfs://…`` for Parquet files in an object
              store, with credentials from the environment.
        schema: the schema of the tables; ``main`` in DuckDB and ``public`` in PostgreSQL if left
            out. Parquet files have none.

    Raises:
        ValueError: the URL or the schema is not valid.
        MissingExtraError: the engine's package is not installed.
    """
    if schema is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", schema):
        raise ValueError(
            f"Schema {schema!r} must be letters, digits and underscores, 63 at most, "
            "and not begin with a digit."
        )
    engine = _ENGINES.get(url.partition(":")[0].lower())
    if engine is None:
        raise ValueError(f"Unsupported warehouse URL. {_FORMS}")
    return engine(url, schema)


def _duckdb(url: str, schema: str | None) -> Warehouse:
    if url.startswith("md:"):
        return DuckDBWarehouse(url, schema=schema or "main")
    if _local_path(url) == ":memory:":
        raise ValueError("A DuckDB database in memory is lost after each transaction. Use a file.")
    config = dict(parse_qsl(urlsplit(url).query))
    return DuckDBWarehouse(_local_path(url), schema=schema or "main", config=config)


def _postgres(url: str, schema: str | None) -> Warehouse:
    return PostgresWarehouse(url, schema=schema or "public")


def _adbc_postgres(url: str, schema: str | None) -> Warehouse:
    return AdbcWarehouse(
        url.partition("+")[2],
        place=redacted_url(url),
        dialect=POSTGRESQL,
        schema=schema or "public",
    )


def _snowflake(url: str, schema: str | None) -> Warehouse:
    names = urlsplit(url).path.split("/")[1:]
    return AdbcWarehouse(
        url.partition("://")[2],
        place=redacted_url(url),
        dialect=SNOWFLAKE,
        schema=schema or (names[1] if len(names) > 1 else "public"),
    )


def _bigquery(url: str, schema: str | None) -> Warehouse:
    parts = urlsplit(url)
    dataset = schema or parts.path[1:]
    options = dict(parse_qsl(parts.query))
    valid = re.fullmatch(r"[A-Za-z0-9.:_-]+/[A-Za-z0-9_]+", f"{parts.netloc}/{dataset}")
    if not valid or not options.keys() <= {"location", "credentials"}:
        raise ValueError(
            "Write bigquery://project/dataset, optionally with ?location=EU and "
            "credentials=/path/of/key.json, and without a user or a password."
        )
    return BigQueryWarehouse(parts.netloc, dataset, **options)


def _parquet(url: str, schema: str | None) -> Warehouse:
    _reject_schema(schema)
    return ParquetWarehouse(Folder(_local_path(url)))


def _object_store(url: str, schema: str | None) -> Warehouse:
    _reject_schema(schema)
    return ParquetWarehouse(ObjectStore(url))


def _local_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc or len(parts.path) < 2:  # noqa: PLR2004 - a slash and a name
        raise ValueError(f"A {parts.scheme}:// URL has a path and no host. {_FORMS}")
    return unquote(parts.path[1:])


def _reject_schema(schema: str | None) -> None:
    if schema is not None:
        raise ValueError("Parquet files have no schema. Leave it out, or use another folder.")


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

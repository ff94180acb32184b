"""The engine for a warehouse URL. What an engine does is in its own module.

A URL is parsed here and nowhere else. What may mean two things is refused, and no error quotes it:
a piece of it may be a password. An engine gets what it needs, percent-encoded anew, so that no
driver reads the URL in another way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode

from pydantic import SecretStr

from prefect_wix.warehouse.bigquery import BigQueryWarehouse
from prefect_wix.warehouse.duckdb import DuckDBWarehouse
from prefect_wix.warehouse.interface import Warehouse
from prefect_wix.warehouse.parquet import ParquetWarehouse
from prefect_wix.warehouse.postgres import PostgresWarehouse
from prefect_wix.warehouse.snowflake import SnowflakeWarehouse
from prefect_wix.warehouse.stores import OBJECT_STORES, Folder, open_object_store


@dataclass(frozen=True)
class WarehouseUrl:
    """A warehouse URL in its parts. Only `place` is for messages.

    Attributes:
        scheme: in lower case.
        login: ``user:password@``, percent-encoded; empty if there is none.
        host: what is between login and path, as written: hosts, an account, a bucket, a project.
        path: as written, with its first slash; empty if there is none.
        settings: name -> value of the settings after ``?``, percent-decoded.
    """

    scheme: str
    login: SecretStr
    host: str
    path: str
    settings: Mapping[str, SecretStr]

    @property
    def place(self) -> str:
        """The URL without login and settings."""
        return f"{self.scheme}://{self.host}{self.path}"

    @property
    def plain_settings(self) -> dict[str, str]:
        """The settings without their protection, for a driver."""
        return {name: value.get_secret_value() for name, value in self.settings.items()}

    @property
    def address(self) -> SecretStr:
        """Everything after ``scheme://``, for a driver."""
        # A plus is a blank to some drivers and a plus to others.
        query = urlencode(self.plain_settings, quote_via=quote)
        login = self.login.get_secret_value()
        return SecretStr(f"{login}{self.host}{self.path}{query and f'?{query}'}")


def open_warehouse(url: str, *, schema: str | None = None) -> Warehouse:
    """The warehouse of a URL. Opens no file and no connection to a server.

    Args:
        url: one of

            - ``duckdb:///sessions.duckdb`` (three slashes: a relative path; four: absolute), with
              DuckDB's settings as in ``?memory_limit=2GB``;
            - ``postgresql://user:password@host:5432/database``, with libpq's options such as
              ``?sslmode=require``;
            - ``snowflake://user:password@account/database/schema?warehouse=…``;
            - ``bigquery://project/dataset``, optionally with ``?location=EU``, and with the
              application default credentials or ``?credentials=/path/of/key.json``;
            - ``parquet:///folder`` (three slashes: relative; four: absolute) for Parquet files;
            - ``s3://bucket/prefix``, ``gs://…`` or ``az://…`` for Parquet files in an object store,
              with credentials from the environment; also ``s3a``, ``gcs``, ``abfs``, ``abfss``.
        schema: the schema of the tables; ``main`` in DuckDB and ``public`` in PostgreSQL if left
            out. Parquet files have none.

    Raises:
        ValueError: the URL or the schema is not valid, or the URL is ambiguous.
        MissingExtraError: the engine's package is not installed.
    """
    if schema is not None:
        check_schema(schema)
    parts = parse_url(url)
    return _ENGINES[parts.scheme](parts, schema)


def parse_url(url: str) -> WarehouseUrl:
    """The parts of a warehouse URL.

    Raises:
        ValueError: the URL is of no known form, or ambiguous; the error quotes nothing of it.
    """
    if not url.isprintable() or url != url.strip():
        raise ValueError(
            "The warehouse URL has a blank at its start or end, or a character that can't be "
            "printed. Remove it."
        )
    scheme, has_slashes, rest = url.partition("://")
    if not has_slashes or scheme.lower() not in _ENGINES:
        raise ValueError(f"Unsupported warehouse URL. {_FORMS}")
    parts = _PARTS.fullmatch(rest)
    if parts is None:
        raise ValueError(_AMBIGUOUS)
    user, password, host, path, query = (part or "" for part in parts.groups())
    login = quote(_decoded(user), safe="")
    if password:
        login += ":" + quote(_decoded(password), safe="")
    _decoded(host + path)
    return WarehouseUrl(
        scheme=scheme.lower(),
        login=SecretStr(f"{login}@" if login else ""),
        host=host,
        path=path,
        settings=_parse_settings(query),
    )


def _parse_settings(query: str) -> dict[str, SecretStr]:
    pairs = [pair.partition("=") for pair in query.split("&")] if query else []
    # A name of another kind, or one without a value, may be the rest of a password with an &.
    names = {name.lower() for name, _, value in pairs if value and _SETTING.fullmatch(name)}
    if len(names) < len(pairs):
        raise ValueError(_AMBIGUOUS)
    return {name: SecretStr(_decoded(value)) for name, _, value in pairs}


def _decoded(text: str) -> str:
    decoded = unquote(text)
    # U+FFFD is in place of bytes that are no UTF-8.
    if re.search(r"%(?![0-9A-Fa-f]{2})", text) or "\0" in decoded or "\ufffd" in decoded:
        raise ValueError(_AMBIGUOUS)
    return decoded


def check_schema(schema: str) -> str:
    """The name of a schema.

    Raises:
        ValueError: it is no name; the error does not quote it.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", schema):
        raise ValueError(
            "The schema of the warehouse must be letters, digits and underscores, 63 at most, and "
            "not begin with a digit."
        )
    return schema


# -- files and object stores -----------------------------------------------------------------------


def _duckdb(url: WarehouseUrl, schema: str | None) -> Warehouse:
    path = _local_path(url)
    database = Path(os.path.realpath(path)).name.lstrip(".").partition(".")[0]
    # DuckDB itself renames a database main.
    if schema and schema.lower() in {database.lower(), "temp", "system"} - {"main"}:
        raise ValueError("A DuckDB schema can't be named like its file, temp or system. Rename it.")
    if path.endswith("/"):
        raise ValueError(f"A duckdb:// URL names a file, and this one a folder. {_FORMS}")
    return DuckDBWarehouse(path, schema=schema or "main", config=url.settings)


def _parquet(url: WarehouseUrl, schema: str | None) -> Warehouse:
    _reject_schema(schema)
    if url.settings:
        raise ValueError(
            "Parquet files have no settings. Remove the ? and the rest of the warehouse URL."
        )
    return ParquetWarehouse(Folder(_local_path(url)))


def _object_store(url: WarehouseUrl, schema: str | None) -> Warehouse:
    _reject_schema(schema)
    bucket, login, account = url.host, url.login.get_secret_value(), ""
    if url.scheme in {"abfs", "abfss"} and (host := _AZURE_HOST.fullmatch(url.host)):
        bucket, login, account = login.removesuffix("@"), "", host[1]
    if login or url.settings or not _BUCKET_AND_PREFIX.fullmatch(bucket + url.path):
        raise ValueError(
            f"Write {url.scheme}://bucket/prefix as the warehouse URL: without user, port and "
            "settings, which come from the environment, and with a prefix that has no @ % * [ and "
            "no folder named . or .. or without a name."
        )
    return ParquetWarehouse(
        open_object_store(url.scheme, bucket, url.path.strip("/"), account=account)
    )


def _local_path(url: WarehouseUrl) -> str:
    """The path of a file or a folder on this machine."""
    path = re.sub("/+", "/", _decoded(url.path[1:]))
    if url.login or url.host or not path.strip("/"):
        raise ValueError(f"A {url.scheme}:// URL has a path and no host. {_FORMS}")
    if path != path.strip() or not path.isprintable() or _NO_PATH.search(path):
        raise ValueError(
            f"The path in the {url.scheme}:// URL is ambiguous. Write the path of a file or folder "
            "on this machine, without ~ \\ * ? [ and without a scheme, a line break or a blank at "
            "an end. A database in memory is lost after each transaction: use a file."
        )
    return path


def _reject_schema(schema: str | None) -> None:
    if schema is not None:
        raise ValueError(
            "Parquet files have no schema. Leave it out, or use another folder in the URL."
        )


# -- databases -------------------------------------------------------------------------------------


def _postgres(url: WarehouseUrl, schema: str | None) -> Warehouse:
    system_roots = url.plain_settings.get("sslrootcert") == "system"
    _check_postgresql(url, _LIBPQ_WITH_SYSTEM if system_roots else _LIBPQ)
    dsn = SecretStr(f"postgresql://{url.address.get_secret_value()}")
    return PostgresWarehouse(
        dsn, place=url.place, schema=schema or "public", system_roots=system_roots
    )


def _check_postgresql(url: WarehouseUrl, lacking: re.Pattern[str]) -> None:
    """Refuse what libpq and asyncpg understand in two ways, or quote in an error."""
    given = url.plain_settings
    if unknown := sorted(filter(lacking.fullmatch, given)):
        raise ValueError(f"asyncpg can't use {', '.join(unknown)} with this URL: remove it.")
    listed = url.host.split(",") if url.host else []
    hosts = given["host"].split(",") if "host" in given else []
    ports = given["port"].split(",") if "port" in given else []
    stated_twice = (
        (url.host, {"host", "port"}),
        (url.path[1:], {"dbname", "database"}),
        ("dbname" in given, {"database"}),
        (url.login, {"user"}),
        (":" in url.login.get_secret_value(), {"password"}),
    )
    if (
        any(stated and names & given.keys() for stated, names in stated_twice)
        # An upper-case PASSWORD would be sent to the server as one of its own settings.
        or any(name != name.lower() for name in given)
        or not re.fullmatch(r"(/[^/@\s]*)?", url.path)
        or not all(map(_is_host, listed))
        or not all(host.startswith("/") or (_is_host(host) and ":" not in host) for host in hosts)
        or not all(_is_host(f"host:{port}") for port in ports)
    ):
        raise ValueError(_AMBIGUOUS)


def _is_host(text: str) -> bool:
    """Whether this is a host with an optional port."""
    host = _HOST.fullmatch(text)
    return host is not None and 0 < int(host["port"] or 1) <= _LAST_PORT


def _snowflake(url: WarehouseUrl, schema: str | None) -> Warehouse:
    names = url.path.split("/")[1:]
    login = url.login.get_secret_value()
    if not _ACCOUNT.fullmatch(url.host) or not login or len(names) not in {1, 2}:
        raise ValueError(_AMBIGUOUS)
    for name in names:
        check_schema(name)
    if not url.settings.keys() <= _SNOWFLAKE_SETTINGS:
        raise ValueError(
            f"A snowflake:// URL has the settings {', '.join(sorted(_SNOWFLAKE_SETTINGS))}. Remove "
            "any other from the warehouse URL."
        )
    user, _, password = login.removesuffix("@").partition(":")
    options = {
        **url.plain_settings,
        **({"password": unquote(password)} if password else {}),
        "account": url.host,
        "user": unquote(user),
        "database": names[0],
    }

    def connect(**more: Any) -> Any:
        return import_module("snowflake.connector").connect(**options, **more)

    return SnowflakeWarehouse(
        connect, place=url.place, schema=schema or (names[1] if len(names) > 1 else "public")
    )


def _bigquery(url: WarehouseUrl, schema: str | None) -> Warehouse:
    dataset = schema or url.path[1:]
    valid = re.fullmatch(r"[A-Za-z0-9.:_-]+/[A-Za-z0-9_]+", f"{url.host}/{dataset}")
    if not valid or url.login or not url.settings.keys() <= {"location", "credentials"}:
        raise ValueError(
            "Write bigquery://project/dataset as the warehouse URL, optionally with ?location=EU "
            "and credentials=/path/of/key.json, and without a user or a password."
        )
    given = url.plain_settings

    def connect(**options: Any) -> Any:
        client = import_module("google.cloud.bigquery").Client
        if "credentials" not in given:
            return client(**options)
        return client.from_service_account_json(given["credentials"], **options)

    location = given.get("location")
    return BigQueryWarehouse(connect, project=url.host, dataset=dataset, location=location)


_ENGINES: dict[str, Callable[[WarehouseUrl, str | None], Warehouse]] = {
    "duckdb": _duckdb,
    "postgres": _postgres,
    "postgresql": _postgres,
    "postgresql+asyncpg": _postgres,
    "snowflake": _snowflake,
    "bigquery": _bigquery,
    "parquet": _parquet,
    **dict.fromkeys(OBJECT_STORES, _object_store),
}
_PARTS = re.compile(
    r"(?:([^\s:/?#@\[\]\\]*)(?::([^\s/?#@\[\]\\]*))?@)?"
    r"([^\s/?#@\\]*)(/[^?#\\]*)?(?:\?([^\s?#@+\\]+))?"
)
"""Login (user, password), host, path and query; a delimiter in any other place is an error."""
_SETTING = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")
_HOST = re.compile(
    r"(?:(?:[A-Za-z0-9._-]|%[0-9A-Fa-f]{2})+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_LAST_PORT = 65_535
_LIBPQ = re.compile(
    "channel_binding|connect.*|fallback_.*|gss(encmode|delegation)|hostaddr|keepalives.*|load_.*|"
    "pgbouncer|pool_timeout|require.*|ssl(sni|compression|certmode)"
)
"""Settings that providers put into URLs, and that asyncpg would send to the server as its own."""
_LIBPQ_WITH_SYSTEM = re.compile(f"{_LIBPQ.pattern}|ssl(cert|key|crl|password|_.*)")
"""Also those that it ignores when it gets the authorities of the machine."""
_ACCOUNT = re.compile(r"[A-Za-z0-9._-]+")
# https://docs.snowflake.com/en/developer-guide/python-connector/python-connector-api
_SNOWFLAKE_SETTINGS = {
    *("warehouse", "role", "authenticator", "token", "token_file_path", "passcode"),
    *("private_key_file", "private_key_file_pwd", "workload_identity_provider"),
    *("oauth_client_id", "oauth_client_secret", "oauth_token_request_url", "oauth_scope"),
    *("host", "port", "protocol"),
}
_NO_PATH = re.compile(r"^[^/]*:|^/?~|[\\*?\[]|:memory:", re.IGNORECASE)
"""A scheme or a drive, a home folder, a Windows path, a pattern of DuckDB, no file at all."""
_BUCKET_AND_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/(?!\.\.?(?:/|$))[^/@%*\[]+)*/?")
_AZURE_HOST = re.compile(r"([a-z0-9]+)\.(?:dfs|blob)\.core\.windows\.net")
_FORMS = (
    "Use duckdb:///sessions.duckdb or parquet:///folder (three slashes: relative; four: absolute), "
    "postgresql://user:password@host:5432/database, "
    "snowflake://user:password@account/database/schema?warehouse=name, bigquery://project/dataset, "
    "or s3://bucket/prefix (gs, az, abfs); or a block: snowflake-connector/name, or "
    "gcp-credentials/name with the dataset as the schema."
)
_AMBIGUOUS = (
    "The warehouse URL is ambiguous. Write % # ? and, in user, password and settings, also "
    "@ : / + [ ] \\ and blanks percent-encoded (%25 %23 %3F %40 %3A %2F %2B %5B %5D %5C %20), and "
    "each setting once, as name=value. A port is a number up to 65535."
)

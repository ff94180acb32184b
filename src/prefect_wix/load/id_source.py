"""Read session IDs from a file or a warehouse query into a spool, which drops duplicates.

How they are marked is in `prefect_wix.load.mark_recordings`.
"""

from __future__ import annotations

import asyncio
import csv
import json
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect_wix.errors import IdSourceError, WarehouseBusyError, WarehouseError, import_extra
from prefect_wix.planning.estimate import counted
from prefect_wix.spool.files import literal_path, local_path
from prefect_wix.spool.id_spool import BATCH_SIZE, Spool
from prefect_wix.warehouse.schema import Statement, Steps
from prefect_wix.warehouse.transactions import SqlWarehouse

COLUMN = "session_id"
_PAGE = 50_000
"""IDs per page of a query."""


@dataclass(frozen=True)
class IdSource:
    """A file of session IDs, or a query that returns them.

    Attributes:
        file: a .csv, .jsonl, .ndjson or .parquet file with a column ``session_id``, in any case, or
            a .txt file with one ID per line.
        query: a SELECT with a column ``session_id``, or the name of a table that has one. It can
            read the warehouse only; see `SqlWarehouse.read`.

    Raises:
        ValueError: neither or both are given.
    """

    file: Path | None = None
    query: str | None = None

    def __post_init__(self) -> None:
        if (self.file is None) == (self.query is None):
            raise ValueError("Give either a file of session IDs or a query that returns them.")

    async def read(self, spool: Spool, warehouse: SqlWarehouse) -> None:
        """Add the distinct IDs to the spool; rows without an ID are skipped.

        Raises:
            IdSourceError: the file, table or column does not exist, or a value is not an ID.
            MissingExtraError: the format needs a package that is not installed.
        """
        if self.file is not None:
            await asyncio.to_thread(read_file, self.file, spool)
        if self.query is not None:
            await _read_query(self.query, spool, warehouse)


# -- files -----------------------------------------------------------------------------------------


def read_file(path: Path, spool: Spool) -> None:
    """Add the distinct IDs of a file to the spool; see `IdSource`."""
    try:
        path = local_path(path, "file")
    except ValueError as error:
        raise IdSourceError(f"{error} Nothing was changed.") from error
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise IdSourceError(f"Unknown format: {path}. Use a {', '.join(_READERS)} file.")
    try:
        _check_regular(path)
        _add_ids(reader(path), spool, str(path))
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise IdSourceError(
            f"{path} can't be read as {path.suffix[1:]} with a column {COLUMN} "
            f"({_first_line(error)}). Nothing was changed: correct the file and run again."
        ) from error


def _check_regular(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")


def _read_text(path: Path) -> Iterator[object]:
    with path.open(encoding="utf-8-sig") as file:
        yield from (line.strip() for line in file)


def _read_csv(path: Path) -> Iterator[object]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        header = next(rows, [])
        column = _find_column(header)
        for row in filter(None, rows):
            if len(row) != len(header):
                # An unquoted comma in an ID would leave a part of it, which is another ID.
                values, columns = counted(len(row), "value"), counted(len(header), "column")
                raise ValueError(f"line {rows.line_num} has {values} for {columns}")
            yield row[column]


def _read_json_lines(path: Path) -> Iterator[object]:
    with path.open(encoding="utf-8-sig") as file:
        for line in filter(str.strip, file):
            pairs = json.loads(line, object_pairs_hook=_Pairs)
            if not isinstance(pairs, _Pairs):
                raise ValueError("a line is not a JSON object")  # noqa: TRY004 - of the file
            yield pairs[_find_column([name for name, _ in pairs])][1]


class _Pairs(list[tuple[str, object]]):
    """A JSON object, with names that are given twice."""


def _find_column(names: Sequence[str]) -> int:
    found = [place for place, name in enumerate(names) if name.lower() == COLUMN]
    if len(found) != 1:
        raise ValueError(f"it has {counted(len(found), 'column')} {COLUMN}")
    return found[0]


def _read_parquet(path: Path) -> Iterator[object]:
    duckdb: Any = import_extra("duckdb", extra="duckdb", what_for="A Parquet file")
    with duckdb.connect() as connection:
        try:
            # With hive_partitioning a folder session_id=x would make every ID x.
            rows = connection.execute(
                f"SELECT {COLUMN} FROM read_parquet($1, hive_partitioning = false)",
                [literal_path(path)],
            )
            while batch := rows.fetchmany(BATCH_SIZE):
                yield from (str(one) if isinstance(one, UUID) else one for (one,) in batch)
        except duckdb.Error as error:
            raise ValueError(str(error)) from error


_READERS: Mapping[str, Callable[[Path], Iterator[object]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}


# -- queries ---------------------------------------------------------------------------------------


async def _read_query(query: str, spool: Spool, warehouse: SqlWarehouse) -> None:
    try:
        await warehouse.read(lambda _: _read_pages(_as_subquery(query), spool))
    except WarehouseBusyError:
        raise
    except WarehouseError as error:
        cause = _first_line(error.__cause__ or error)
        raise IdSourceError(
            f"The query failed or has no column {COLUMN} ({cause}). A query can only read tables "
            "of the warehouse. Nothing was changed: correct the query and run again."
        ) from error


def _first_line(error: BaseException) -> str:
    """The error without the lines below it, which quote the query or the file."""
    return str(error).partition("\n")[0]


def _as_subquery(query: str) -> str:
    text = query.strip().rstrip(";")
    if re.fullmatch(r'[\w."]+', text):
        return f"SELECT {COLUMN} FROM {text}"
    if ";" in text:
        raise IdSourceError("The query must be one SELECT statement, or the name of a table.")
    return text


def _read_pages(query: str, spool: Spool) -> Steps[None]:
    """Read pages in the order of the IDs, so that at most one page is in memory."""
    ids = f"SELECT DISTINCT CAST({COLUMN} AS TEXT) AS id FROM (\n{query}\n) AS source"
    after = ""
    while True:
        rows = yield Statement(
            f"SELECT id FROM ({ids}) AS ids WHERE id > $1 ORDER BY id LIMIT {_PAGE}", (after,)
        )
        _add_ids((row[0] for row in rows), spool, "the query's result")
        if len(rows) < _PAGE:
            return
        after = rows[-1][0]


def _add_ids(values: Iterator[object], spool: Spool, source: str) -> None:
    ids = (
        _validated(value, f"ID {number:,} in {source}")
        for number, value in enumerate(values, start=1)
        if value is not None and value != ""
    )
    while batch := list(islice(ids, BATCH_SIZE)):
        spool.add(batch)


def _validated(value: object, place: str) -> str:
    # The value is not quoted: it may be of a wrong file or column, and secret.
    if not isinstance(value, str) or not value.isprintable():
        raise IdSourceError(f"{place} is not a session ID (one line of text).")
    return value

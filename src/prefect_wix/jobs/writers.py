"""Write a complete listing to one file: CSV, JSON Lines or Parquet, by the path's suffix.

A file is written under a temporary name in the same folder and then renamed, so that readers never
see a partial file. Files of a warehouse are in `prefect_wix.warehouse.parquet`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect_wix.errors import OutputError, import_extra
from prefect_wix.spool.id_spool import Spool

COLUMN = "session_id"


def check_output(path: Path) -> None:
    """Reject an unusable path before a job is submitted.

    Raises:
        OutputError: the suffix is not supported, or the path is a folder.
        MissingExtraError: the format needs a package that is not installed.
    """
    if path.suffix not in _WRITERS:
        raise OutputError(
            f"output {str(path)!r} has no supported suffix; use {', '.join(_WRITERS)}."
        )
    if os.path.isdir(path):  # noqa: PTH112 - the method raises for a name that is too long
        raise OutputError(f"output {str(path)!r} is a folder; name a file in it.")
    if path.suffix == ".parquet":
        _import_duckdb()


def write_session_ids(spool: Spool, path: Path) -> None:
    """Write the IDs in order, in one column ``session_id``; replaces an existing file.

    Raises:
        OutputError: the file can't be written; an existing file was not changed.
        SpoolError: the local disk could not store the IDs.
    """
    check_output(path)
    draft = path.with_name(f".{uuid4().hex}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[path.suffix](spool, draft)
        draft.replace(path)
    except OSError as error:
        raise OutputError(
            f"output {str(path)!r} can't be written ({error.strerror}). Check the path, the "
            "permissions and the free space. An existing file was not changed."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink()


def _write_csv(spool: Spool, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([COLUMN])
        for batch in spool.batches():
            writer.writerows([session_id] for session_id in batch)
        os.fsync(file.fileno())


def _write_json_lines(spool: Spool, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for batch in spool.batches():
            file.writelines(json.dumps({COLUMN: session_id}) + "\n" for session_id in batch)
        os.fsync(file.fileno())


def _write_parquet(spool: Spool, path: Path) -> None:
    duckdb = _import_duckdb()
    with duckdb.connect() as connection:
        try:
            connection.execute(
                "COPY (SELECT * FROM read_csv($1, auto_detect = false, header = false, "
                f"columns = {{'{COLUMN}': 'VARCHAR'}}, "
                "delim = '\x01', quote = '', escape = '')) TO $2 (FORMAT parquet)",
                [str(spool.lines()), str(path)],
            )
        except duckdb.IOException as error:
            raise OSError(None, str(error)) from error


def _import_duckdb() -> Any:
    return import_extra("duckdb", extra="duckdb", what_for="A Parquet file")


_WRITERS: Mapping[str, Callable[[Spool, Path], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".ndjson": _write_json_lines,
    ".parquet": _write_parquet,
}

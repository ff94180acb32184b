"""Write a complete listing to one file: CSV, JSON Lines or Parquet, by the path's suffix.

How an existing file is replaced is in `prefect_wix.spool.files`. Files of a warehouse are in
`prefect_wix.warehouse.parquet`.
"""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefect_wix.errors import OutputError, import_extra
from prefect_wix.spool.files import check_output_file, replaced_file
from prefect_wix.spool.id_spool import Spool

COLUMN = "session_id"


def check_output(path: Path) -> Path:
    """Reject an unusable path before a job is submitted.

    Returns:
        The path, with the home folder in the place of ``~``.

    Raises:
        OutputError: the suffix is not supported, or the file can't be written; see
            `prefect_wix.spool.files.check_output_file`.
        MissingExtraError: the format needs a package that is not installed.
    """
    checked = check_output_file(path, "output")
    if path.suffix not in _WRITERS:
        raise OutputError(
            f"output {str(path)!r} has no supported suffix; use {', '.join(_WRITERS)}."
        )
    if path.suffix == ".parquet":
        _import_duckdb()
    return checked


def write_session_ids(spool: Spool, path: Path) -> None:
    """Write the IDs in order, in one column ``session_id``; replaces an existing file.

    Raises:
        OutputError: the file can't be written; an existing file was not changed.
        SpoolError: the local disk could not store the IDs.
    """
    path = check_output(path)
    with replaced_file(path, "output") as draft:
        _WRITERS[path.suffix](spool, draft)


def _write_csv(spool: Spool, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([COLUMN])
        for batch in spool.batches():
            writer.writerows([session_id] for session_id in batch)


def _write_json_lines(spool: Spool, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for batch in spool.batches():
            file.writelines(json.dumps({COLUMN: session_id}) + "\n" for session_id in batch)


def _write_parquet(spool: Spool, path: Path) -> None:
    duckdb = _import_duckdb()
    with duckdb.connect() as connection:
        try:
            # A draft's path is absolute, and COPY takes it literally.
            connection.execute(
                f"COPY ({spool.query_of_lines()}) TO $1 (FORMAT parquet)", [str(path)]
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

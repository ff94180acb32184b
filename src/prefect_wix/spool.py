"""A listing's distinct ids on local disk: what makes ten million of them fit in little memory.

A private SQLite database that lives as long as the listing. Knows nothing of Wix or warehouses.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from prefect_wix.errors import SpoolError

__all__ = ["Spool"]

BATCH_SIZE = 10_000
_CACHE_KIB = 16_384


@dataclass(frozen=True)
class _Added:
    unseen: list[str]
    """Ids that were in no page before."""
    fresh: int
    """Ids that were in no page of this pass before."""


class Spool:
    """The distinct ids of one listing. Use it as ``with``: its file goes with it.

    A listing may be drained more than once; the spool remembers which pass saw an id last.
    """

    def __init__(self) -> None:
        self._count = 0
        with _disk_errors(), ExitStack() as undo:
            self._folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="prefect-wix-"))
            self._db = undo.enter_context(closing(_make_database(Path(self._folder))))
            self._close = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file. Safe to call twice."""
        self._close.close()

    def __len__(self) -> int:
        """How many distinct ids are held."""
        return self._count

    @property
    def folder(self) -> Path:
        """A private folder that lives as long as the spool, for files made from it."""
        return Path(self._folder)

    def add(self, session_ids: Sequence[str], *, in_pass: int = 1) -> _Added:
        """Take in one page of one pass.

        Raises:
            SpoolError: the local disk is full or failing.
        """
        with _disk_errors():
            rows = self._db.execute(
                "INSERT INTO ids SELECT value, :n, :n FROM json_each(:page) WHERE true "
                "ON CONFLICT (id) DO UPDATE SET last = :n WHERE last < :n RETURNING id, first",
                {"page": json.dumps(session_ids), "n": in_pass},
            ).fetchall()
        unseen = [session_id for session_id, first in rows if first == in_pass]
        self._count += len(unseen)
        return _Added(unseen, fresh=len(rows))

    def batches(self, size: int = BATCH_SIZE) -> Iterator[list[str]]:
        """The ids in order, ``size`` at a time."""
        with _disk_errors():
            rows = self._db.execute("SELECT id FROM ids ORDER BY id")
            while batch := rows.fetchmany(size):
                yield [session_id for (session_id,) in batch]

    def digest(self) -> str:
        """A fingerprint of the set of ids, whatever order they came in (hexadecimal)."""
        fingerprint = hashlib.blake2b(digest_size=16)
        for batch in self.batches():
            fingerprint.update("".join(f"{session_id}\n" for session_id in batch).encode())
        return fingerprint.hexdigest()

    def write_lines(self, path: Path) -> None:
        """Write the ids in order, one a line, to a text file."""
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for batch in self.batches():
                file.writelines(f"{session_id}\n" for session_id in batch)


def _make_database(folder: Path) -> sqlite3.Connection:
    database = sqlite3.connect(folder / "ids.sqlite", isolation_level=None, check_same_thread=False)
    # A spool is never reopened, so nothing has to survive a crash: no journal, and one
    # transaction that is never committed, so that pages leave memory only for want of room.
    database.executescript(f"""
        PRAGMA journal_mode = OFF;
        PRAGMA synchronous = OFF;
        PRAGMA locking_mode = EXCLUSIVE;
        PRAGMA cache_size = -{_CACHE_KIB};
        CREATE TABLE ids (id TEXT PRIMARY KEY, first INTEGER, last INTEGER) WITHOUT ROWID;
        BEGIN;
    """)
    return database


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise SpoolError(
            f"The ids of the listing could not be kept on local disk ({error}). Free space in the "
            "folder for temporary files, or point TMPDIR at a larger disk, and run again."
        ) from error

"""A listing's distinct ids on local disk: what makes ten million of them fit in little memory.

A private SQLite database that lives as long as the listing, in memory until it is too big for that.
Knows nothing of Wix or warehouses.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Self

from prefect_wix.errors import SpoolError

__all__ = ["Spool"]

BATCH_SIZE = 10_000
_CACHE_KIB = 32_768
_fingerprint = partial(hashlib.blake2b, digest_size=16)


@dataclass(frozen=True)
class _Added:
    unseen: list[str]
    """Ids that were in no page before."""
    fresh: int
    """Ids that were in no page of this pass before."""


class Spool:
    """The distinct ids of one listing. Use it as ``with``: its files go with it.

    A listing may be drained more than once; the spool remembers which pass saw an id last.
    """

    def __init__(self) -> None:
        self._count = self._pages = 0
        self._pages_in_lines = -1
        self._close = ExitStack()
        with _disk_errors():
            self._db = self._close.enter_context(closing(_make_database()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the files. Safe to call twice."""
        self._close.close()

    def __len__(self) -> int:
        """How many distinct ids are held."""
        return self._count

    @cached_property
    def folder(self) -> Path:
        """A private folder that lives as long as the spool, for files made from it."""
        with _disk_errors():
            folder = tempfile.TemporaryDirectory(prefix="prefect-wix-")
            return Path(self._close.enter_context(folder))

    def add(self, session_ids: Sequence[str], *, in_pass: int = 1) -> _Added:
        """Take in one page of one pass.

        Raises:
            SpoolError: the local disk is full or failing.
        """
        self._pages += 1
        ids = list(dict.fromkeys(session_ids))
        page = {"ids": json.dumps(ids), "page": self._pages, "pass": in_pass}
        with _disk_errors():
            new = self._db.execute(_INSERT, page).rowcount
            self._count += new
            if new == len(ids):
                return _Added(ids, fresh=new)
            unseen = {session_id for (session_id,) in self._db.execute(_NEW, page)}
            again = self._db.execute(_SEE_AGAIN, page).rowcount
        return _Added([one for one in ids if one in unseen], fresh=new + again)

    def batches(self, size: int = BATCH_SIZE) -> Iterator[list[str]]:
        """The ids in order, ``size`` at a time."""
        with _disk_errors():
            rows = self._db.execute("SELECT id FROM ids ORDER BY id")
            while batch := rows.fetchmany(size):
                yield [session_id for (session_id,) in batch]

    def digest(self) -> str:
        """A fingerprint of the set of ids, whatever order they came in (hexadecimal)."""
        with _disk_errors(), self._content() as content:
            return hashlib.file_digest(content, _fingerprint).hexdigest()

    def _content(self) -> BufferedReader | BytesIO:
        # What does not fit in a batch is wanted as a file anyway, by whoever loads it.
        if len(self) > BATCH_SIZE:
            return self.lines().open("rb")
        return BytesIO(b"".join(self._texts()))

    def lines(self) -> Path:
        """The ids in order, one a line, in a text file in ``folder``. It is written once.

        Raises:
            SpoolError: the local disk is full or failing.
        """
        path = self.folder / "ids.txt"
        if self._pages_in_lines != self._pages:
            with _disk_errors(), path.open("wb") as file:
                file.writelines(self._texts())
            self._pages_in_lines = self._pages
        return path

    def _texts(self) -> Iterator[bytes]:
        return ("".join(f"{one}\n" for one in batch).encode() for batch in self.batches())


_INSERT = "INSERT OR IGNORE INTO ids SELECT value, :page, :pass FROM json_each(:ids)"
_NEW = "SELECT id FROM ids WHERE id IN (SELECT value FROM json_each(:ids)) AND page = :page"
_SEE_AGAIN = (
    "UPDATE ids SET pass = :pass WHERE id IN (SELECT value FROM json_each(:ids)) AND pass < :pass"
)


def _make_database() -> sqlite3.Connection:
    # No name: SQLite makes a file in the folder for temporary files when its cache is full, and
    # nobody else can open it.
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    # A spool is never reopened, so nothing has to survive a crash: no journal, and one
    # transaction that is never committed, so that pages leave memory only for want of room.
    database.executescript(f"""
        PRAGMA journal_mode = OFF;
        PRAGMA synchronous = OFF;
        PRAGMA cache_size = -{_CACHE_KIB};
        CREATE TABLE ids (id TEXT PRIMARY KEY, page INTEGER, pass INTEGER) WITHOUT ROWID;
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

"""The distinct session IDs of one listing, up to tens of millions in little memory.

They are in a private temporary SQLite database, which moves to local disk once its cache of 32 MiB
is full. Files for users are in `prefect_wix.jobs.writers`.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Self, TypeVar

from prefect_wix.errors import SpoolError
from prefect_wix.spool.files import literal_path, temporary_folder
from prefect_wix.spool.shield import shield_in_thread

BATCH_SIZE = 10_000
INLINE_LIMIT = 1000
"""Work on up to this many IDs runs without a thread: it takes about 1 ms, and a thread switch and
back would add about 0.5 ms."""
_CACHE_KIB = 32_768
_fingerprint = partial(hashlib.blake2b, digest_size=16)

T = TypeVar("T")


@dataclass(frozen=True)
class _Added:
    unseen: list[str]
    """IDs that were never added before, in the order received."""
    fresh: int
    """Number of IDs that were not added in this pass before."""


class Spool:
    """The distinct IDs of one listing. Use it as ``with``: leaving it removes its files.

    A listing may read all pages more than once; the spool stores the last pass of each ID.
    """

    def __init__(self) -> None:
        self._count = self._adds = 0
        self._adds_in_lines = -1
        self._close = ExitStack()
        self._is_closed = False
        self._executing = threading.Lock()
        """Held while SQLite executes: it crashes if another thread closes the database then."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the files. Safe to call twice."""
        self._is_closed = True
        with self._executing:
            self._close.close()

    def __len__(self) -> int:
        """The number of distinct IDs."""
        return self._count

    async def run(self, work: Callable[[], T], *, adding: int = 0) -> T:
        """Run blocking work on the spool: in a thread above `INLINE_LIMIT` IDs, otherwise inline.

        Args:
            work: the work; a cancellation waits for it.
            adding: the number of IDs that the work adds.
        """
        is_small = len(self) + adding <= INLINE_LIMIT
        return work() if is_small else await shield_in_thread(work)

    @cached_property
    def _db(self) -> sqlite3.Connection:
        return self._close.enter_context(closing(_make_database()))

    @cached_property
    def folder(self) -> Path:
        """A private temporary folder for files made from the spool; removed with it."""
        with _disk_errors():
            return self._close.enter_context(temporary_folder())

    def add(self, session_ids: Sequence[str], *, in_pass: int = 1) -> _Added:
        """Add the IDs of one page or several pages of one pass.

        Raises:
            SpoolError: the local disk is full or failing, or the spool is closed.
        """
        self._check_open()
        ids = list(dict.fromkeys(session_ids))
        self._adds += 1
        values = {"ids": json.dumps(ids), "add": self._adds, "pass": in_pass}
        with _disk_errors(), self._executing:
            new = self._db.execute(_INSERT, values).rowcount
            self._count += new
            if new == len(ids):
                return _Added(ids, fresh=new)
            unseen = {session_id for (session_id,) in self._db.execute(_NEW, values)}
            again = self._db.execute(_MARK_SEEN, values).rowcount
        return _Added([one for one in ids if one in unseen], fresh=new + again)

    def batches(self, size: int = BATCH_SIZE) -> Iterator[list[str]]:
        """The IDs in UTF-8 order, ``size`` at a time.

        Raises:
            SpoolError: the local disk is failing, or the spool is closed.
        """
        self._check_open()
        with _disk_errors():
            with self._executing:
                rows = self._db.execute("SELECT id FROM ids ORDER BY id")
            while batch := rows.fetchmany(size):
                yield [session_id for (session_id,) in batch]

    def _check_open(self) -> None:
        if self._is_closed:
            raise SpoolError("The spool is closed and its IDs are deleted: use them before that.")

    def digest(self) -> str:
        """The hexadecimal fingerprint of the set of IDs, independent of order and pages.

        Stored in receipts: BLAKE2b, 16 bytes, over the IDs in UTF-8 order, one per line.

        Raises:
            SpoolError: the local disk is full or failing, or the spool is closed.
        """
        if len(self) <= BATCH_SIZE:
            return _fingerprint(b"".join(self._texts())).hexdigest()
        # A load of more IDs needs the file anyway.
        with _disk_errors(), self.lines().open("rb") as content:
            return hashlib.file_digest(content, _fingerprint).hexdigest()

    def lines(self) -> Path:
        """A text file in ``folder`` with the IDs in order, one per line; rewritten after an `add`.

        Raises:
            SpoolError: the local disk is full or failing, or the spool is closed.
        """
        path = self.folder / "ids.txt"
        if self._adds_in_lines != self._adds:
            with _disk_errors():
                path.touch(mode=0o600)
                with path.open("wb") as file:
                    file.writelines(self._texts())
            self._adds_in_lines = self._adds
        return path

    def query_of_lines(self) -> str:
        """A DuckDB query of the IDs in order, in one column ``session_id``. It reads `lines`.

        Raises:
            SpoolError: see `lines`; or DuckDB can't read the temporary folder.
        """
        with _disk_errors():
            path = literal_path(self.lines()).replace("'", "''")
        # No separator and no quotes: a line is an ID, whatever it contains. With hive_partitioning
        # a folder session_id=x would make every ID x.
        return (
            f"SELECT session_id FROM read_csv('{path}', auto_detect = false, header = false, "
            "columns = {'session_id': 'VARCHAR'}, delim = '\x01', quote = '', escape = '', "
            "hive_partitioning = false)"
        )

    def _texts(self) -> Iterator[bytes]:
        return ("\n".join([*batch, ""]).encode() for batch in self.batches())


# Inserted in order, so that several IDs go to the same database page.
_INSERT = """
    INSERT OR IGNORE INTO ids SELECT value, :add, :pass FROM json_each(:ids) ORDER BY value
"""
_NEW = "SELECT id FROM ids WHERE id IN (SELECT value FROM json_each(:ids)) AND added = :add"
_MARK_SEEN = (
    "UPDATE ids SET pass = :pass WHERE id IN (SELECT value FROM json_each(:ids)) AND pass < :pass"
)


def _make_database() -> sqlite3.Connection:
    # Without a name SQLite creates an unlinked file in the temporary folder once its cache is full,
    # which no other process can open.
    database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    # A spool is never reopened: no journal, and one transaction that is never committed, so that
    # pages leave memory only when the cache is full.
    database.executescript(f"""
        PRAGMA journal_mode = OFF;
        PRAGMA synchronous = OFF;
        PRAGMA cache_size = -{_CACHE_KIB};
        CREATE TABLE ids (id TEXT PRIMARY KEY, added INTEGER, pass INTEGER) WITHOUT ROWID;
        BEGIN;
    """)
    return database


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise SpoolError(
            f"Session IDs could not be written to local disk ({error}); the listing was not used. "
            "Free space in the temporary folder or set TMPDIR to a larger disk, and run again."
        ) from error

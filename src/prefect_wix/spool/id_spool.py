"""A listing's distinct ids, on local disk where they are many: ten million take little memory.

They are held in a private SQLite database that lives as long as the listing, and that is in memory
until its cache is full.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Self, TypeVar

from prefect_wix.errors import SpoolError
from prefect_wix.spool.shield import shield_in_thread

__all__ = ["Spool"]

BATCH_SIZE = 10_000
FEW = 1000
"""Work with up to this many ids is done without a thread: it takes about 1 ms, and the switch to a
thread and back about 0.5 ms more."""
_CACHE_KIB = 32_768
_fingerprint = partial(hashlib.blake2b, digest_size=16)

T = TypeVar("T")


@dataclass(frozen=True)
class _Added:
    unseen: list[str]
    """Ids that were never added before."""
    fresh: int
    """Ids that were not added in this pass before."""


class Spool:
    """The distinct ids of one listing. Use it as ``with``: its files go with it.

    A listing may be drained more than once; the spool remembers which pass saw an id last.
    """

    def __init__(self) -> None:
        self._count = self._visits = 0
        self._visits_in_lines = -1
        self._close = ExitStack()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the files. Safe to call twice."""
        self._close.close()
        self._is_closed = True

    def __len__(self) -> int:
        """How many distinct ids are held."""
        return self._count

    async def run(self, work: Callable[[], T], *, adding: int = 0) -> T:
        """Do blocking work with it: in a thread, unless the ids are few.

        Args:
            work: what to do.
            adding: how many ids the work takes in.
        """
        is_small = len(self) + adding <= FEW
        return work() if is_small else await shield_in_thread(work)

    @cached_property
    def _db(self) -> sqlite3.Connection:
        return self._close.enter_context(closing(_make_database()))

    @cached_property
    def folder(self) -> Path:
        """A private folder that lives as long as the spool, for files made from it."""
        with _disk_errors():
            folder = tempfile.TemporaryDirectory(prefix="prefect-wix-")
            return Path(self._close.enter_context(folder))

    def add(self, session_ids: Sequence[str], *, in_pass: int = 1) -> _Added:
        """Take in a page of one pass, or several.

        Raises:
            SpoolError: the local disk is full or failing.
        """
        self._check_open()
        ids = list(dict.fromkeys(session_ids))
        self._visits += 1
        visit = {"ids": json.dumps(ids), "visit": self._visits, "pass": in_pass}
        with _disk_errors():
            new = self._db.execute(_INSERT, visit).rowcount
            self._count += new
            if new == len(ids):
                return _Added(ids, fresh=new)
            unseen = {session_id for (session_id,) in self._db.execute(_NEW, visit)}
            again = self._db.execute(_SEE_AGAIN, visit).rowcount
        return _Added([one for one in ids if one in unseen], fresh=new + again)

    def batches(self, size: int = BATCH_SIZE) -> Iterator[list[str]]:
        """The ids in order, ``size`` at a time."""
        self._check_open()
        with _disk_errors():
            rows = self._db.execute("SELECT id FROM ids ORDER BY id")
            while batch := rows.fetchmany(size):
                yield [session_id for (session_id,) in batch]

    def _check_open(self) -> None:
        if self._is_closed:
            raise SpoolError("The ids of a listing are gone when it is closed: use them before.")

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
        if self._visits_in_lines != self._visits:
            with _disk_errors(), path.open("wb") as file:
                file.writelines(self._texts())
            self._visits_in_lines = self._visits
        return path

    def _texts(self) -> Iterator[bytes]:
        return ("\n".join([*batch, ""]).encode() for batch in self.batches())


# In their order: of many ids, several go to the same page of the table.
_INSERT = """
    INSERT OR IGNORE INTO ids SELECT value, :visit, :pass FROM json_each(:ids) ORDER BY value
"""
_NEW = "SELECT id FROM ids WHERE id IN (SELECT value FROM json_each(:ids)) AND visit = :visit"
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
        CREATE TABLE ids (id TEXT PRIMARY KEY, visit INTEGER, pass INTEGER) WITHOUT ROWID;
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

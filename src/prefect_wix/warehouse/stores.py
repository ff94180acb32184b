"""Where the files of a Parquet warehouse are: a folder on this machine, or an object store.

A store puts one file in its place whole or not at all, reads it, and lists. What the files mean is
not known here.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from uuid import uuid4

from prefect_wix.errors import WarehouseAccessError, WarehouseBusyError
from prefect_wix.extras import import_extra

__all__ = ["Folder", "ObjectStore", "Store", "sync"]

_BUSY_POLL_SECONDS = 0.01
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}


class Store(Protocol):
    """Files by relative paths."""

    name: str
    """What to call it in a message; without credentials."""

    def address(self, path: str) -> str:
        """What DuckDB calls the file."""

    def attach(self, connection: Any) -> None:
        """Let a DuckDB connection read the files."""

    def draft(self) -> Any:
        """A context with a path on this machine, to write a file at that is then put."""

    def put(self, draft: Path, path: str) -> None:
        """Put the draft in its place, whole; what was there before is there until then."""

    def read(self, paths: list[str]) -> list[bytes]:
        """What is in each of the files."""

    def delete(self, paths: list[str]) -> None:
        """Delete the files."""

    def files(self, folder: str) -> list[str]:
        """The path of every file below the folder, in order; none where there is no folder."""

    def locked(self, name: str, timeout: float) -> Any:
        """A context that nobody else is in with the same name."""


class Folder:
    """A folder on this machine, which processes of this machine share.

    A process that is killed may leave a file in ``.drafts``; it is of no use to anybody.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root)
        self.name = str(self._root)

    def address(self, path: str) -> str:
        """See `Store.address`."""
        return str(self._root / path)

    def attach(self, connection: Any) -> None:
        """See `Store.attach`. DuckDB reads local files by itself."""

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """See `Store.draft`. It is on the same file system, where a rename is atomic."""
        drafts = self._root / ".drafts"
        drafts.mkdir(parents=True, exist_ok=True)
        draft = drafts / uuid4().hex
        try:
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def put(self, draft: Path, path: str) -> None:
        """See `Store.put`."""
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        sync(draft)
        draft.replace(target)
        sync(target.parent)

    def read(self, paths: list[str]) -> list[bytes]:
        """See `Store.read`."""
        return [(self._root / path).read_bytes() for path in paths]

    def delete(self, paths: list[str]) -> None:
        """See `Store.delete`."""
        for path in paths:
            (self._root / path).unlink(missing_ok=True)

    def files(self, folder: str) -> list[str]:
        """See `Store.files`."""
        found = (path for path in (self._root / folder).rglob("*") if path.is_file())
        return sorted(path.relative_to(self._root).as_posix() for path in found)

    @contextmanager
    def locked(self, name: str, timeout: float) -> Iterator[None]:
        """See `Store.locked`. The lock goes with its process, however that ends."""
        locks = self._root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout
        with (locks / blake2b(name.encode(), digest_size=16).hexdigest()).open("wb") as file:
            while not _take(file.fileno()):
                if time.monotonic() >= deadline:
                    raise WarehouseBusyError(
                        f"Another process held {name} in {self.name} for all of {timeout:g} s. "
                        "End it, or wait for it, and run again."
                    )
                time.sleep(_BUSY_POLL_SECONDS)
            yield


def _take(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync(path: Path) -> None:
    """Have a file, or what a folder lists, outlive a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ObjectStore:
    """A prefix in a bucket, by fsspec. Credentials come from the store's usual environment.

    An object is replaced by one upload, so a reader sees the old or the new one. There is no lock:
    of two loads that replace a partition at once the last to write wins, whole.
    """

    def __init__(self, url: str) -> None:
        self._protocol = url.partition(":")[0]
        if self._protocol in _PACKAGES:
            extra = self._protocol
            import_extra(_PACKAGES[extra], extra=extra, what_for=f"A {extra}:// warehouse")
        fsspec = import_extra("fsspec", extra="duckdb", what_for="An object store")
        self._root = url.rstrip("/")
        self.name = self._root
        # A listing that is kept would hide what other processes write.
        self._fs = fsspec.filesystem(self._protocol, use_listings_cache=False)

    def address(self, path: str) -> str:
        """See `Store.address`."""
        return f"{self._root}/{path}"

    def attach(self, connection: Any) -> None:
        """See `Store.attach`."""
        connection.register_filesystem(self._fs)

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """See `Store.draft`."""
        with TemporaryDirectory(prefix="prefect-wix-") as folder:
            yield Path(folder) / "draft"

    def put(self, draft: Path, path: str) -> None:
        """See `Store.put`."""
        with self._reached():
            self._fs.put_file(str(draft), self.address(path))

    def read(self, paths: list[str]) -> list[bytes]:
        """See `Store.read`. All are fetched at once."""
        with self._reached():
            found = self._fs.cat([self.address(path) for path in paths]) if paths else {}
        return list(found.values())

    def delete(self, paths: list[str]) -> None:
        """See `Store.delete`."""
        with self._reached():
            for path in paths:
                self._fs.rm_file(self.address(path))

    def files(self, folder: str) -> list[str]:
        """See `Store.files`."""
        root = self._fs._strip_protocol(self._root)  # noqa: SLF001 - fsspec has no other way
        with self._reached():
            found = self._fs.find(self.address(folder))
        return sorted(path.removeprefix(root).lstrip("/") for path in found)

    @contextmanager
    def locked(self, name: str, timeout: float) -> Iterator[None]:  # noqa: ARG002
        """See `Store.locked`. No store has locks that go with their process: none is taken."""
        yield

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Each store's client has exceptions of its own.
            raise WarehouseAccessError(
                f"{self.name} can't be reached or written; it holds what it held before. Check "
                f"the bucket, the credentials and their rights. It says: {error}"
            ) from error

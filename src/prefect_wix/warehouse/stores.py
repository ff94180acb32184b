"""Storage for the files of a Parquet warehouse: a local folder or an object store.

A store writes a file atomically, and reads, lists and deletes files. Their layout and content are
in `parquet`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from uuid import uuid4

from filelock import FileLock, Timeout

from prefect_wix.errors import WarehouseAccessError, WarehouseBusyError, import_extra
from prefect_wix.spool.files import literal_path
from prefect_wix.warehouse.interface import driver_text

_BUSY_POLL_SECONDS = 0.01
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}


class Store(Protocol):
    """Files by path relative to the root of the store."""

    name: str
    """The root without credentials, for messages."""

    def address(self, path: str) -> str:
        """The path or URL by which DuckDB reads the file."""

    def attach(self, connection: Any) -> None:
        """Enable a DuckDB connection to read the files."""

    def draft(self) -> Any:
        """A context manager: a local path for a new file; the file is deleted at exit."""

    def put(self, draft: Path, path: str) -> None:
        """Create or replace the file by the draft, atomically."""

    def read(self, paths: list[str]) -> list[bytes]:
        """The content of each file."""

    def delete(self, paths: list[str]) -> None:
        """Delete the files."""

    def files(self, folder: str) -> list[str]:
        """The paths of all files below the folder, sorted; empty if there is no folder."""

    def locked(self, name: str, timeout: float) -> Any:
        """A context manager: an exclusive lock of this name, waited for up to `timeout` seconds.

        Raises:
            WarehouseBusyError: another process held the lock for all of the timeout.
        """


class Folder:
    """A local folder. Its locks exclude the processes of this machine only.

    A killed process may leave a file in ``.drafts``; it can be deleted.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root).absolute()
        self.name = root

    def address(self, path: str) -> str:
        """See `Store.address`."""
        return literal_path(self._root / path)

    def attach(self, connection: Any) -> None:
        """See `Store.attach`. DuckDB reads local files by itself."""

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """See `Store.draft`. On the file system of the root, where a rename is atomic."""
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
        """See `Store.locked`. The lock ends with its process, even one that is killed."""
        locks = self._root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(
            locks / blake2b(name.encode(), digest_size=16).hexdigest(),
            timeout=timeout,
            poll_interval=_BUSY_POLL_SECONDS,
        )
        try:
            lock.acquire()
        except Timeout:
            raise WarehouseBusyError(
                f"Another process held {name} in {self.name} for all of {timeout:g} s. "
                "Nothing was written. End that process or wait for it, then run again."
            ) from None
        try:
            yield
        finally:
            lock.release()


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to disk, so that a crash of the machine keeps them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ObjectStore:
    """A prefix of a bucket, accessed by fsspec. Credentials come from the environment.

    One upload replaces an object, so a reader gets the old or the new one. There is no lock: if two
    loads replace a partition at once, the last write wins.
    """

    def __init__(self, url: str) -> None:
        self._protocol = url.partition(":")[0]
        if self._protocol in _PACKAGES:
            extra = self._protocol
            import_extra(_PACKAGES[extra], extra=extra, what_for=f"A {extra}:// warehouse")
        fsspec = import_extra("fsspec", extra="duckdb", what_for="An object store")
        self._root = url.rstrip("/")
        self.name = self._root
        # Cached listings would hide the writes of other processes.
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
        with self._errors():
            self._fs.put_file(str(draft), self.address(path))

    def read(self, paths: list[str]) -> list[bytes]:
        """See `Store.read`. fsspec fetches the files concurrently."""
        with self._errors():
            found = self._fs.cat([self.address(path) for path in paths]) if paths else {}
        return list(found.values())

    def delete(self, paths: list[str]) -> None:
        """See `Store.delete`."""
        with self._errors():
            for path in paths:
                self._fs.rm_file(self.address(path))

    def files(self, folder: str) -> list[str]:
        """See `Store.files`."""
        root = self._fs._strip_protocol(self._root)  # noqa: SLF001 - fsspec has no other way
        with self._errors():
            found = self._fs.find(self.address(folder))
        return sorted(path.removeprefix(root).lstrip("/") for path in found)

    @contextmanager
    def locked(self, name: str, timeout: float) -> Iterator[None]:  # noqa: ARG002
        """See `Store.locked`. Takes no lock: no store has locks that end with their process."""
        yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Each client library has its own exceptions.
            raise WarehouseAccessError(
                f"{self.name} can't be reached or written: {driver_text(error)}. No partition was "
                "left incomplete. Check the bucket, the credentials and their rights, then run "
                "again."
            ) from error

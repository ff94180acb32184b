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
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from prefect_wix.errors import WarehouseAccessError, WarehouseBusyError, import_extra
from prefect_wix.spool.files import literal_path, temporary_folder
from prefect_wix.warehouse.interface import driver_text

_BUSY_POLL_SECONDS = 0.01
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}


class Folder:
    """A local folder. Its locks exclude the processes of this machine only.

    A killed process may leave a file in ``.drafts``; it can be deleted.

    Attributes:
        name: the root without credentials, for messages.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root).absolute()
        self.name = root

    def address(self, path: str) -> str:
        """The path or URL by which DuckDB reads the file."""
        return literal_path(self._root / path)

    def attach(self, connection: Any) -> None:
        """Enable a DuckDB connection to read the files. It reads local files by itself."""

    @contextmanager
    def new_file(self, path: str) -> Iterator[Path]:
        """A local draft; it creates or replaces the file, atomically, when the block ends."""
        drafts, target = self._root / ".drafts", self._root / path
        drafts.mkdir(parents=True, exist_ok=True)
        # On the file system of the root, where a rename is atomic.
        draft = drafts / uuid4().hex
        try:
            yield draft
            target.parent.mkdir(parents=True, exist_ok=True)
            sync(draft)
            draft.replace(target)
            sync(target.parent)
        finally:
            draft.unlink(missing_ok=True)

    def read(self, paths: list[str]) -> list[bytes]:
        """The content of each file."""
        return [(self._root / path).read_bytes() for path in paths]

    def delete(self, paths: list[str]) -> None:
        """Delete the files."""
        for path in paths:
            (self._root / path).unlink(missing_ok=True)

    def files(self, folder: str) -> list[str]:
        """The paths of all files below the folder, sorted; empty if there is no folder."""
        found = (path for path in (self._root / folder).rglob("*") if path.is_file())
        return sorted(path.relative_to(self._root).as_posix() for path in found)

    @contextmanager
    def locked(self, name: str, timeout: float) -> Iterator[None]:
        """An exclusive lock of this name. It ends with its process, even one that is killed.

        Args:
            name: the lock.
            timeout: how many seconds to wait for it.

        Raises:
            WarehouseBusyError: another process held the lock for all of the timeout.
        """
        locks = self._root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        path = locks / blake2b(name.encode(), digest_size=16).hexdigest()
        try:
            lock = FileLock(path, timeout=timeout, poll_interval=_BUSY_POLL_SECONDS).acquire()
        except Timeout:
            raise WarehouseBusyError(
                f"Another process held {name} in {self.name} for all of {timeout:g} s. "
                "Nothing was written. End that process or wait for it, then run again."
            ) from None
        with lock:
            yield


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
        protocol = url.partition(":")[0]
        if protocol in _PACKAGES:
            import_extra(_PACKAGES[protocol], extra=protocol, what_for=f"A {protocol}:// warehouse")
        fsspec = import_extra("fsspec", extra="duckdb", what_for="An object store")
        self.name = url.rstrip("/")
        # Cached listings would hide the writes of other processes.
        self._fs = fsspec.filesystem(protocol, use_listings_cache=False)

    def address(self, path: str) -> str:
        """See `Folder.address`."""
        return f"{self.name}/{path}"

    def attach(self, connection: Any) -> None:
        """See `Folder.attach`."""
        connection.register_filesystem(self._fs)

    @contextmanager
    def new_file(self, path: str) -> Iterator[Path]:
        """See `Folder.new_file`."""
        with temporary_folder() as folder:
            draft = folder / "draft"
            yield draft
            with self._errors():
                self._fs.put_file(str(draft), self.address(path))

    def read(self, paths: list[str]) -> list[bytes]:
        """See `Folder.read`. fsspec fetches the files concurrently."""
        with self._errors():
            found = self._fs.cat([self.address(path) for path in paths]) if paths else {}
        return list(found.values())

    def delete(self, paths: list[str]) -> None:
        """See `Folder.delete`."""
        with self._errors():
            for path in paths:
                self._fs.rm_file(self.address(path))

    def files(self, folder: str) -> list[str]:
        """See `Folder.files`."""
        root = self._fs._strip_protocol(self.name)  # noqa: SLF001 - fsspec has no other way
        with self._errors():
            found = self._fs.find(self.address(folder))
        return sorted(path.removeprefix(root).lstrip("/") for path in found)

    @contextmanager
    def locked(self, name: str, timeout: float) -> Iterator[None]:  # noqa: ARG002
        """See `Folder.locked`. Takes no lock: no store has locks that end with their process."""
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
                "again.",
                affects_all=isinstance(error, PermissionError),
            ) from error


Store = Folder | ObjectStore
"""Files by path relative to a root, which other processes see complete or not at all."""

"""Storage for the files of a Parquet warehouse: a local folder or an object store.

A store lists and reads files, and replaces a file if it still has the version that was
read: compare and swap. The layout and the content of files are in `parquet`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from filelock import FileLock

from prefect_wix.errors import WarehouseAccessError, import_extra
from prefect_wix.spool.files import literal_path
from prefect_wix.warehouse.interface import driver_text

T = TypeVar("T")

_LOCK_SECONDS = 0.25
"""How long one `Folder.put` waits for a lock, which is held for a rename."""
_LOCK_POLL_SECONDS = 0.01
_REQUESTS = 32
"""How many objects are read at once."""
_FOOTER_BYTES = 1 << 20
"""Longer than the footer of a Parquet file of ten million IDs."""
_SCHEMES = {
    **dict.fromkeys(("s3", "s3a"), ("s3", "S3Store")),
    **dict.fromkeys(("gs", "gcs"), ("gs", "GCSStore")),
    **dict.fromkeys(("az", "abfs", "abfss"), ("abfs", "AzureStore")),
}
"""The extra and the class of obstore, by the scheme of a URL."""
OBJECT_STORES = tuple(_SCHEMES)
_AZURE_SETTINGS = {
    "AccountName": "account_name",
    "AccountKey": "account_key",
    "BlobEndpoint": "endpoint",
    "SharedAccessSignature": "sas_key",
}
_CLIENT = {"allow_http": True, "connect_timeout": "15s", "timeout": "5m"}
"""An endpoint of the environment may have no TLS."""
_RETRIES = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}


class Folder:
    """A local folder. Its locks exclude the processes of this machine only.

    A killed process may leave a file in ``.drafts``; it can be deleted.

    Attributes:
        name: the root without credentials, for messages.
        no_version: a version that no file has.
        errors: what its methods raise.
        denied: those of them that hold for all files.
    """

    no_version: Any = "none"
    errors: tuple[type[Exception], ...] = (OSError,)
    denied: tuple[type[Exception], ...] = ()

    def __init__(self, root: str) -> None:
        self._root = Path(root).absolute()
        self.name = root

    def files(self, folder: str) -> dict[str, int]:
        """All files below the folder: path -> size in bytes. Empty if there is no folder."""
        found = (path for path in (self._root / folder).rglob("*") if path.is_file())
        return {path.relative_to(self._root).as_posix(): path.stat().st_size for path in found}

    def read(self, paths: Iterable[str]) -> list[bytes]:
        """The content of each file."""
        return [(self._root / path).read_bytes() for path in paths]

    def fetch(self, path: str, copy: Path) -> Any:
        """Copy one version of the file; that version, or None if there is no file."""
        with suppress(FileNotFoundError):
            shutil.copyfile(self._root / path, copy)
            return _digest(copy)
        return None

    def footers(self, files: Mapping[str, int], folder: Path) -> list[str]:  # noqa: ARG002
        """For each Parquet file, a path for DuckDB that has its end, with the metadata.

        Args:
            files: path -> size, as listed.
            folder: for copies.
        """
        return [literal_path(self._root / path) for path in files]

    def put(self, path: str, draft: Path, version: Any) -> bool:
        """Create or replace the file, atomically; False if it does not have this version.

        Args:
            path: the file.
            draft: the new content.
            version: of `fetch`; None to create the file.

        Raises:
            Timeout: another process holds the folder's lock.
        """
        drafts, target = self._root / ".drafts", self._root / path
        # On the file system of the root, where a rename is atomic.
        copy = drafts / uuid4().hex
        drafts.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(draft, copy)
            sync(copy)
            with self._lock(target.parent):
                if _digest(target) != version:
                    return False
                copy.replace(target)
                sync(target.parent)
        finally:
            copy.unlink(missing_ok=True)
        return True

    def _lock(self, folder: Path) -> Any:
        """The lock of a folder. It ends with its process, even one that is killed."""
        locks = self._root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        name = folder.relative_to(self._root).as_posix()
        path = locks / hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        return FileLock(path, timeout=_LOCK_SECONDS, poll_interval=_LOCK_POLL_SECONDS)


def error_text(error: Exception) -> str:
    """The text of an error for a message, without a query of a URL, which may be a signature."""
    # obstore appends its request.
    text = str(error).partition("\n\nDebug source")[0]
    return driver_text(re.sub(r"\?\S*", "", text))


def _digest(path: Path) -> str | None:
    with suppress(FileNotFoundError), path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
    return None


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to disk, so that a crash of the machine keeps them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ObjectStore:
    """A prefix of a bucket, accessed by obstore.

    Args:
        name: its URL without credentials, for messages.
        store: a store of obstore. Its requests are conditional: ``If-None-Match`` and ``If-Match``
            on S3 and Azure, the generation on Google Cloud Storage.
    """

    no_version: Any = {"e_tag": '"999999999"', "version": "1"}  # noqa: RUF012 - obstore reads a dict

    def __init__(self, name: str, store: Any) -> None:
        self.name = name
        self._store = store
        self._obstore = import_extra("obstore", extra="s3", what_for="An object store")
        errors = self._obstore.exceptions
        self.errors = (errors.BaseError, OSError)
        self.denied = (errors.PermissionDeniedError, errors.UnauthenticatedError)

    def files(self, folder: str) -> dict[str, int]:
        """See `Folder.files`."""
        found = self._obstore.list(self._store, folder).collect()
        return {one["path"]: one["size"] for one in found}

    def read(self, paths: Iterable[str]) -> list[bytes]:
        """See `Folder.read`."""
        return self._concurrently(lambda path: bytes(self._get(path).bytes()), paths)

    def fetch(self, path: str, copy: Path) -> Any:
        """See `Folder.fetch`. The request has one version, whole."""
        try:
            found = self._get(path)
        except FileNotFoundError:
            return None
        with copy.open("wb") as file:
            for chunk in found.stream():
                file.write(chunk)
        return {name: found.meta[name] for name in ("e_tag", "version") if found.meta[name]}

    def footers(self, files: Mapping[str, int], folder: Path) -> list[str]:
        """See `Folder.footers`."""

        def copied(path: str) -> str:
            copy = folder / uuid4().hex
            copy.write_bytes(self._footer(path, files[path]))
            return literal_path(copy)

        return self._concurrently(copied, files)

    def _footer(self, path: str, size: int) -> bytes:
        """The end of one version of the object, which had this size when it was listed."""
        if size > _FOOTER_BYTES:
            # Without an end: a larger version that replaced it meanwhile is read to its own end.
            options = {"range": {"offset": size - _FOOTER_BYTES}}
            with suppress(self._obstore.exceptions.BaseError):
                found = self._get(path, options)
                if found.meta["size"] >= size:
                    return bytes(found.bytes())
        return bytes(self._get(path).bytes())

    def put(self, path: str, draft: Path, version: Any) -> bool:
        """See `Folder.put`. An upload in several parts would have no condition."""
        errors = self._obstore.exceptions
        try:
            self._obstore.put(
                self._store, path, draft, mode=version or "create", use_multipart=False
            )
        except (errors.AlreadyExistsError, errors.PreconditionError):
            return False
        return True

    def _get(self, path: str, options: Any = None) -> Any:
        return self._obstore.get(self._store, path, options=options)

    def _concurrently(self, read: Callable[[str], T], paths: Iterable[str]) -> list[T]:
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return [*pool.map(read, paths)]


def open_object_store(scheme: str, bucket: str, prefix: str, *, account: str = "") -> ObjectStore:
    """A prefix of a bucket, with credentials from the environment. Makes no request.

    Args:
        scheme: one of `OBJECT_STORES`.
        bucket: the bucket, or Azure's container.
        prefix: the folder in it; may be empty.
        account: Azure's storage account; the one of the environment if left out.

    Raises:
        WarehouseAccessError: the environment has none, or invalid ones.
    """
    extra, kind = _SCHEMES[scheme]
    what_for = f"A {scheme}:// warehouse"
    module = import_extra("obstore.store", extra=extra, what_for=what_for)
    boto3 = import_extra("boto3", extra=extra, what_for=what_for) if kind == "S3Store" else None
    options: dict[str, Any] = {"prefix": prefix or None, "retry_config": _RETRIES}
    at = f"@{account}" if account else ""
    name = f"{scheme}://{bucket}{at}/{prefix}".rstrip("/")
    try:
        if boto3:
            options |= {"credential_provider": _aws_credentials}
            options |= {"region": region} if (region := boto3.Session().region_name) else {}
        elif kind == "AzureStore":
            options |= {"account_name": account} if account else _azure_connection()
        store = getattr(module, kind)(bucket, client_options=_CLIENT, **options)
    except Exception as error:  # noqa: BLE001 - those of boto3 and obstore have no base in common
        raise WarehouseAccessError(
            f"The environment has no valid credentials for {name}: {error_text(error)}. Set those "
            "that docs/warehouses.md lists, then run again."
        ) from None
    return ObjectStore(name, store)


def _aws_credentials() -> Any:
    """Credentials as boto3 finds them. Called at the first request and when they expire."""
    return import_module("obstore.auth.boto3").Boto3CredentialProvider()()


def _azure_connection() -> dict[str, str]:
    """The settings of the connection string that the Azure portal shows, if there is one."""
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    given = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    return {name: given[key] for key, name in _AZURE_SETTINGS.items() if key in given}


Store = Folder | ObjectStore
"""Files by path relative to a root, which other processes see complete or not at all."""

"""Temporary folders. What a killed process leaves is removed by the next process that needs one.

A lock beside each folder shows that its process lives: the operating system releases it with the
process, also across containers that share a volume, whose process IDs mean nothing to each other.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from uuid import uuid4

from filelock import FileLock

_PREFIX = "prefect-wix-run-"
_SECONDS = 10.0
"""How long to wait for the lock of a new folder, which a sweep may hold for a moment."""


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder that only this user can open; it is removed when the block ends.

    Raises:
        OSError: the temporary folder of this machine can't be written.
    """
    root = Path(gettempdir()).resolve(strict=True)
    _sweep(root)
    folder = root / f"{_PREFIX}{uuid4().hex}"
    # Locked before it exists, so that a sweep never finds it without an owner.
    with _owned(folder, timeout=_SECONDS):
        folder.mkdir(mode=0o700)
        yield folder


@contextmanager
def _owned(folder: Path, *, timeout: float) -> Iterator[None]:
    """Hold the lock of a folder, and remove both when the block ends.

    Args:
        folder: the folder, which need not exist.
        timeout: how many seconds to wait for the lock.

    Raises:
        OSError: another process holds the lock, or it can't be created.
    """
    lock = Path(f"{folder}.lock")
    # Threads share it: a spool may be closed by another thread than the one that opened it.
    with FileLock(lock, timeout=timeout, thread_local=False):
        try:
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # Windows removes it with the lock
                lock.unlink()


@cache
def _sweep(root: Path) -> None:
    """Remove the folders of ended processes, once per process."""
    for lock in root.glob(f"{_PREFIX}*.lock"):
        # Those of other users or of processes that run can't be locked.
        with suppress(OSError, NotImplementedError), _owned(lock.with_suffix(""), timeout=0):
            pass

"""Paths from outside: checked, given to DuckDB literally, and replaced without a visible draft.

Also temporary folders, which a killed run leaves behind.

The content of files is in `prefect_wix.jobs.writers` and `prefect_wix.load.id_source`.
"""

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from prefect_wix.errors import OutputError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_IN_NO_NAME = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
"""NUL, and surrogates that stand for no byte of a file name."""
_TEMPORARY = "prefect-wix-run-"
_LEFT_SECONDS = 6 * 3600.0
"""A temporary folder without a new file for this long was left by a killed run: a run has its own
while it publishes one listing."""
_GLOB = re.compile(r"[*?[]")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder that only this user can open, removed when the block ends.

    Removes the folders that killed runs left more than six hours ago.

    Raises:
        OSError: the temporary folder of this machine can't be written.
    """
    for left in Path(gettempdir()).glob(f"{_TEMPORARY}*"):
        # Those of other users can't be removed.
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left)
    with TemporaryDirectory(prefix=_TEMPORARY) as folder:
        yield Path(folder)


def local_path(path: Path, name: str) -> Path:
    """The path, with the home folder in the place of ``~``.

    Args:
        path: a path that a user gave.
        name: the parameter, as the subject of the error's sentence.

    Raises:
        ValueError: no file can have this path. The sentence does not quote it, since a URL may
            contain a password.
    """
    text = os.path.expanduser(path)  # noqa: PTH111 - the method raises for a file named ~x.csv
    if _URL.match(text):
        raise ValueError(
            f"{name} is a URL: give the path of a file on this machine. The flow load-sessions "
            "writes to S3, Google Cloud Storage and Azure."
        )
    if text.startswith("~") and "/" in text:
        raise ValueError(f"{name} begins with ~ and the name of an unknown user.")
    if _IN_NO_NAME.search(text):
        raise ValueError(f"{name} has a character that no file name can have.")
    return Path(text)


def check_output_file(path: Path, name: str) -> Path:
    """Check that a file can be written, without writing it.

    Args:
        path: the file; missing folders are created when it is written.
        name: the parameter, as the subject of the error's sentence.

    Returns:
        The path, with the home folder in the place of ``~``.

    Raises:
        OutputError: it is a URL, or a folder, link or device, or its folder can't be written.
    """
    try:
        path = local_path(path, name)
    except ValueError as error:
        raise OutputError(str(error)) from error
    with _output_errors(path, name):
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                raise OutputError(f"{name} {str(path)!r} is a folder; name a file in it.")
            if not stat.S_ISREG(mode):
                raise OutputError(
                    f"{name} {str(path)!r} is a link, a pipe or a device, which would be replaced; "
                    "name a regular file."
                )
        folder = next(one for one in path.absolute().parents if one.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return path


@contextmanager
def replaced_file(path: Path, name: str) -> Iterator[Path]:
    """A draft, which replaces the file when the block ends without an error.

    Readers see the old file or the new one. Only this user can open the draft. The new file has the
    mode and, where that is allowed, the owner of the old one.

    Args:
        path: the file, from `check_output_file`; missing folders are created.
        name: the parameter, as the subject of the error's sentence.

    Raises:
        OutputError: the file can't be written; an existing one was not changed.
    """
    with _output_errors(path, name):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The real path: DuckDB takes a relative one such as s3:/x for a URL, and tempfile of
        # Python 3.12 takes .. after a link for the parent by name.
        parent = os.path.realpath(path.parent)
        with TemporaryDirectory(prefix=".", suffix=".draft", dir=parent) as folder:
            draft = Path(folder) / "draft"
            yield draft
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                old = path.stat()
                with suppress(PermissionError):
                    os.chown(draft, old.st_uid, old.st_gid)
                draft.chmod(stat.S_IMODE(old.st_mode))
            draft.replace(path)


def literal_path(path: Path) -> str:
    """The real path as DuckDB reads it: not as a pattern, a URL or a home folder.

    Without links, since in a pattern DuckDB takes ``..`` for the parent by name.

    Raises:
        OSError: DuckDB has no way to write it.
    """
    text = os.path.realpath(path)
    if _GLOB.search(text) and "\\" in text:
        raise OSError(errno.EINVAL, "DuckDB reads no path with a backslash and one of * ? [")
    return _GLOB.sub(r"[\g<0>]", text)


@contextmanager
def _output_errors(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{name} {str(path)!r} can't be written ({error.strerror}). Check the path, the "
            "permissions and the free space. An existing file was not changed."
        ) from error

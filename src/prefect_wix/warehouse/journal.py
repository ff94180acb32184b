"""The last entries of a job ledger, in a file beside the database until they are in its tables.

Before every submit one row has to be safe on disk. DuckDB takes milliseconds to plan and commit it;
a line at the end of a file takes a fraction of one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from prefect_wix.errors import WarehouseError, WarehouseSchemaError
from prefect_wix.partitions import Ask
from prefect_wix.warehouse.stores import sync

__all__ = ["Journal"]


class Journal:
    """Entries in the order in which they were written, one a line, as JSON.

    Only who holds the database may use it; that is what keeps two processes apart. Where there is
    nothing to take in, there is no file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def write(self, asks: Iterable[Ask]) -> None:
        """Add entries; when it returns they outlive a crash of the process and of the machine.

        Raises:
            OSError: they can't be written; what was written before is as it was.
            WarehouseError: an entry is no text.
        """
        try:
            lines = b"".join(_entries().dump_json(ask) + b"\n" for ask in asks)
        except PydanticSerializationError as error:
            raise WarehouseError(f"An entry of the ledger can't be written: {error}") from error
        if self._file is None:
            self._file = os.open(self._path, _APPEND, 0o666)
            sync(self._path.parent)
        written = os.write(self._file, lines)
        if written < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    @property
    def is_there(self) -> bool:
        """Whether somebody has left something in it, if only the beginning of a line."""
        return self._path.exists()

    def read(self) -> dict[str, Ask]:
        """The last entry of each ask, by its id.

        Raises:
            WarehouseSchemaError: another version has written it.
        """
        asks = {}
        for line in self._lines():
            try:
                ask = _entries().validate_json(line)
            except ValidationError as error:
                if error.errors()[0]["type"] == "json_invalid":
                    # A crash in the middle of a write, which nobody was told had taken effect.
                    break
                raise WarehouseSchemaError(
                    f"{self._path} has entries that this version of prefect-wix can't read. "
                    f"Nothing was written. Load with the version that wrote it. {error}"
                ) from error
            asks[ask.ask_id] = ask
        return asks

    def _lines(self) -> list[bytes]:
        try:
            return self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []

    def clear(self) -> None:
        """Forget all of them: they are in the tables."""
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave what is in it to whoever opens the database next."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@cache
def _entries() -> TypeAdapter[Ask]:
    return TypeAdapter(Ask)


_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_DSYNC
"""A write that returns is safe: one call, since between two of them another thread may run."""

"""An answer's ids on their way into DuckDB, and blocking work on its way to a thread.

What the engines that stand on DuckDB share. No statement here touches a landed table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from prefect_wix.spool import Spool
from prefect_wix.warehouse.steps import STAGED

__all__ = ["stage", "to_the_end"]

T = TypeVar("T")


def stage(connection: Any, spool: Spool, *, kind: str = "TABLE") -> None:
    """Put the spool's ids in the temporary table (or view) `STAGED`, in their order.

    A view reads the spool's file again for each question, and takes no room.
    """
    lines = spool.folder / "ids.txt"
    spool.write_lines(lines)
    path = str(lines).replace("'", "''")
    # No separator and no quotes: a line is an id, whatever is in it.
    connection.execute(
        f"CREATE OR REPLACE TEMP {kind} {STAGED} AS SELECT session_id FROM read_csv('{path}', "
        "auto_detect = false, header = false, columns = {'session_id': 'VARCHAR'}, "
        "delim = '\x01', quote = '', escape = '')"
    )


async def to_the_end(work: Callable[[], T]) -> T:
    """Run blocking work in a thread; a cancellation waits for it, since it is short and whole."""
    thread = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        # Whoever cancelled has no use for how it ended; asyncio would log it as never looked at.
        thread.exception()
        raise

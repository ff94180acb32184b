"""An answer's ids on their way into DuckDB, for the engines that stand on it.

No statement here touches a landed table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect_wix.spool import BATCH_SIZE, Spool
from prefect_wix.warehouse.steps import STAGED

__all__ = ["stage"]


def stage(connection: Any, spool: Spool) -> None:
    """Put the spool's ids in the temporary table `STAGED`, in their order.

    Many of them stay in a file, and `STAGED` is a view that reads it again for each question: that
    takes no memory.
    """
    if len(spool) <= BATCH_SIZE:
        ids = [session_id for batch in spool.batches() for session_id in batch]
        query = "SELECT unnest(CAST($1 AS VARCHAR[])) AS session_id"
        connection.execute(f"CREATE TEMP TABLE {STAGED} AS {query}", (ids,))
    else:
        connection.execute(f"CREATE TEMP VIEW {STAGED} AS {_lines_of(spool.lines())}")


def _lines_of(file: Path) -> str:
    path = str(file).replace("'", "''")
    # No separator and no quotes: a line is an id, whatever is in it.
    return (
        f"SELECT session_id FROM read_csv('{path}', auto_detect = false, header = false, "
        "columns = {'session_id': 'VARCHAR'}, delim = '\x01', quote = '', escape = '')"
    )

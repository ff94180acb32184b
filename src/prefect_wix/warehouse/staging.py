"""An answer's ids on their way into DuckDB, for the engines that stand on it.

No statement here touches a landed table.
"""

from __future__ import annotations

from typing import Any

from prefect_wix.spool import Spool
from prefect_wix.warehouse.steps import STAGED

__all__ = ["stage"]


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

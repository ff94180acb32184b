"""An answer's ids on their way into DuckDB, for the engines that stand on it.

No statement here touches a landed table.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from prefect_wix.spool import BATCH_SIZE, Spool
from prefect_wix.warehouse.interface import Answer
from prefect_wix.warehouse.steps import STAGED

__all__ = ["stage", "stage_rows"]


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


def stage_rows(connection: Any, answers: Sequence[Answer]) -> None:
    """Put the rows of several answers in `STAGED`, each with its place among them as ``answer``."""
    rows = [
        (n, *one.ask.partition.key, one.ask.job_id, list(chain.from_iterable(one.spool.batches())))
        for n, one in enumerate(answers)
    ]
    numbers, sites, days, segments, jobs, ids = zip(*rows, strict=True)
    connection.execute(
        f"CREATE TEMP TABLE {STAGED} AS SELECT answer, site_id, session_date, segment, job_id, "
        "unnest(ids) AS session_id FROM (SELECT unnest(CAST($1 AS BIGINT[])) AS answer, "
        "unnest(CAST($2 AS TEXT[])) AS site_id, unnest(CAST($3 AS DATE[])) AS session_date, "
        "unnest(CAST($4 AS TEXT[])) AS segment, unnest(CAST($5 AS TEXT[])) AS job_id, "
        "unnest(CAST($6 AS TEXT[][])) AS ids)",
        (list(numbers), list(sites), list(days), list(segments), list(jobs), list(ids)),
    )


def _lines_of(file: Path) -> str:
    path = str(file).replace("'", "''")
    # No separator and no quotes: a line is an id, whatever is in it.
    return (
        f"SELECT session_id FROM read_csv('{path}', auto_detect = false, header = false, "
        "columns = {'session_id': 'VARCHAR'}, delim = '\x01', quote = '', escape = '')"
    )

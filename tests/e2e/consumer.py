"""A consumer of session changes in a process of its own, with its copy in a SQLite file.

`test_kill` runs and kills it: ``python -m tests.e2e.consumer '{"warehouse": …, "copy": …}'``.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from contextlib import closing

from prefect_wix.load import session_changes
from prefect_wix.load.session_changes import read_session_changes
from prefect_wix.warehouse.factory import open_warehouse

TABLES = """
    PRAGMA synchronous = OFF;
    CREATE TABLE IF NOT EXISTS sessions (
        day, segment, session_id, PRIMARY KEY (day, segment, session_id)
    );
    CREATE TABLE IF NOT EXISTS tokens (token);
"""
WRITES = {
    "added": "INSERT OR IGNORE INTO sessions VALUES (?, ?, ?)",
    "removed": "DELETE FROM sessions WHERE (day, segment, session_id) = (?, ?, ?)",
}


async def consume(config):
    """Process the changes since the last token. The token is stored after its batch."""
    session_changes.BATCH_SIZE = 20
    warehouse = open_warehouse(config["warehouse"], schema=config["schema"])
    with closing(sqlite3.connect(config["copy"])) as copy:
        copy.executescript(TABLES)
        token = copy.execute("SELECT token FROM tokens ORDER BY rowid DESC").fetchone()
        async for batch in read_session_changes(warehouse, since=token and token[0]):
            for one in batch.changes:
                values = str(one.session_date), one.segment, one.session_id
                copy.execute(WRITES[one.change], values)
            copy.commit()
            copy.execute("INSERT INTO tokens VALUES (?)", (batch.token,))
            copy.commit()


def copied(config, partition):
    """The session IDs of a partition in the copy, sorted."""
    query = "SELECT session_id FROM sessions WHERE (day, segment) = (?, ?) ORDER BY 1"
    with closing(sqlite3.connect(config["copy"])) as copy:
        rows = copy.execute(query, (str(partition.day), partition.segment))
        return [session_id for (session_id,) in rows]


async def follow(config):
    while True:
        await consume(config)


if __name__ == "__main__":
    asyncio.run(follow(json.loads(sys.argv[1])))

"""GoogleSQL: the statements of `Tables` in BigQuery's words, with their values in them.

Only text is made here; nothing runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime

from prefect_wix.warehouse.steps import Statement

__all__ = ["googlesql", "inserts", "literal"]

# A query may have 1 MB of text (https://cloud.google.com/bigquery/quotas#query_jobs: "Maximum
# unresolved GoogleSQL query length"). Half of it leaves room for whatever else is counted.
_INSERT_BYTES = 500_000


def googlesql(statement: Statement, *, project: str, dataset: str) -> str:
    """A statement of `Tables` for BigQuery: its names in backticks, its types, and literals."""

    def word(match: re.Match[str]) -> str:
        if match["value"]:
            return literal(statement.values[int(match["value"]) - 1])
        return f"`{match['name']}`" if match["name"] else words[match[0]]

    words = {
        **_WORDS,
        "current_database()": literal(project),
        "information_schema.columns": f"`{dataset}`.INFORMATION_SCHEMA.COLUMNS",
        # It is asked for a dataset that has just told its columns.
        "information_schema.schemata": (
            f"(SELECT {literal(project)} AS catalog_name, {literal(dataset)} AS schema_name)"
        ),
    }
    sql = _TO_TRANSLATE.sub(word, statement.sql)
    # So a question for a partition reads (and is billed for) its blocks and not the whole table.
    by_partition = re.match(r"CREATE TABLE .*\bsession_date\b.*\bsegment\b", sql)
    return f"{sql} CLUSTER BY site_id, session_date, segment" if by_partition else sql


_DAYS = "max(session_date) - min(session_date)"
_WORDS = {
    "TEXT": "STRING",
    "BIGINT": "INT64",
    "TIMESTAMPTZ": "TIMESTAMP",
    "DOUBLE PRECISION": "FLOAT64",
    # The difference of two dates is an interval there, and no number.
    _DAYS: "DATE_DIFF(max(session_date), min(session_date), DAY)",
}
_TO_TRANSLATE = re.compile(
    r'\$(?P<value>\d+)|"(?P<name>\w+)"|\b(?:TEXT|BIGINT|TIMESTAMPTZ|DOUBLE PRECISION)\b|'
    rf"current_database\(\)|information_schema\.\w+|{re.escape(_DAYS)}"
)


def literal(value: object) -> str:
    """A value as GoogleSQL writes it.

    See https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical#literals.
    """
    match value:
        case None:
            return "NULL"
        case str():
            return f"'{_ESCAPED.sub(_escape, value)}'"
        case int() | float():
            return repr(value)
        case datetime():
            return f"TIMESTAMP '{value.astimezone(UTC).isoformat()}'"
        case date():
            return f"DATE '{value.isoformat()}'"
    raise TypeError(f"No literal is known for {type(value).__name__}.")


_ESCAPED = re.compile(r"[\\'\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return f"\\{character}" if character in "\\'" else f"\\u{ord(character):04x}"


def inserts(table: str, session_ids: Iterable[str]) -> Iterator[str]:
    """The statements that put ids in a table (as GoogleSQL names it), each short enough."""
    chunk: list[str] = []
    size = 0
    for text in map(literal, session_ids):
        length = len(text.encode()) + len(", ")
        if chunk and size + length > _INSERT_BYTES:
            yield _insert(table, chunk)
            chunk, size = [], 0
        chunk.append(text)
        size += length
    if chunk:
        yield _insert(table, chunk)


def _insert(table: str, literals: list[str]) -> str:
    ids = ", ".join(literals)
    return f"INSERT INTO {table} (session_id) SELECT id FROM UNNEST([{ids}]) AS id"

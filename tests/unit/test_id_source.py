"""A file or a query gives its distinct session IDs, or one clear error."""

from __future__ import annotations

import json
import tracemalloc

import duckdb
import pytest

from prefect_wix.errors import IdSourceError
from prefect_wix.load.id_source import IdSource
from prefect_wix.spool.id_spool import Spool
from tests.warehouses import land

IDS = ["b", "a", "c", "b", "ö, \"'", ""]
DISTINCT = ["a", "b", "c", "ö, \"'"]


def write_csv(path):
    lines = ['"' + one.replace('"', '""') + '",x' for one in IDS]
    path.write_text("\ufeffsession_id,else\n" + "\n".join(lines), encoding="utf-8")


def write_json_lines(path):
    path.write_text("\n".join(json.dumps({"session_id": one}) for one in IDS))


def write_parquet(path):
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE ids (session_id TEXT)")
        connection.executemany("INSERT INTO ids VALUES (?)", [[one] for one in IDS])
        connection.execute(f"COPY ids TO '{path}'")


def write_text(path):
    path.write_text("\r\n".join(IDS), encoding="utf-8")


WRITERS = {
    ".csv": write_csv,
    ".jsonl": write_json_lines,
    ".ndjson": write_json_lines,
    ".parquet": write_parquet,
    ".txt": write_text,
}


async def read(source, warehouse=None):
    with Spool() as spool:
        await source.read(spool, warehouse)
        return [one for batch in spool.batches() for one in batch]


@pytest.mark.parametrize("suffix", WRITERS)
async def test_a_file_of_any_format_gives_its_distinct_ids(tmp_path, suffix):
    """Quotes, commas, a byte order mark, CRLF, empty lines and duplicates are handled."""
    path = tmp_path / f"ids{suffix}"
    WRITERS[suffix](path)
    assert await read(IdSource(file=path)) == DISTINCT


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("ids.csv", "id\na\n", "with a column session_id"),
        ("ids.jsonl", '{"id": "a"}\n', "with a column session_id"),
        ("ids.jsonl", "a\n", "can't be read as jsonl"),
        ("ids.jsonl", '{"session_id": 7}\n', "7 in .* is not a session ID"),
        ("ids.parquet", "no parquet", "can't be read as parquet"),
        ("ids.xls", "a", "Unknown format: .* Use a .csv"),
        ("ids.txt", "a\x00b", "is not a session ID"),
    ],
)
async def test_a_file_without_ids_is_rejected_with_one_sentence(tmp_path, name, text, sentence):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(IdSourceError, match=sentence):
        await read(IdSource(file=path))


async def test_a_missing_file_is_rejected_with_one_sentence(tmp_path):
    with pytest.raises(IdSourceError, match=r"nowhere\.txt can't be read"):
        await read(IdSource(file=tmp_path / "nowhere.txt"))


@pytest.fixture(params=["duckdb", "postgres"])
def bench(request, make_bench):
    return make_bench(request.param)


async def test_a_query_and_a_table_give_their_distinct_ids(bench):
    """A SELECT may end with a comment or a semicolon; a table is given by name."""
    warehouse = await bench.ready()
    await land(warehouse, ["b", "a", "c"])
    table = bench.name("wix_session_ids")
    for query in (
        f"SELECT session_id FROM {table} UNION ALL SELECT session_id FROM {table};",
        f"WITH all_ids AS (SELECT * FROM {table}) SELECT * FROM all_ids -- all",
        table,
    ):
        assert await read(IdSource(query=query), warehouse) == ["a", "b", "c"]


async def test_a_query_of_many_pages_gives_each_id_once(bench):
    """120,000 IDs are read page by page in less than 40 MB."""
    warehouse = await bench.ready()
    query = "SELECT CAST(n AS TEXT) AS session_id FROM generate_series(1, 120000) AS t(n)"
    tracemalloc.start()
    with Spool() as spool:
        await IdSource(query=query).read(spool, warehouse)
        assert len(spool) == 120_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40_000_000


@pytest.mark.parametrize(
    "query", ["SELECT 1 AS other", "SELEKT", "nowhere.nothing", "SELECT 1; DROP TABLE x"]
)
async def test_a_query_without_ids_is_rejected_with_one_sentence(bench, query):
    warehouse = await bench.ready()
    with pytest.raises(IdSourceError, match=r"[Tt]he query"):
        await read(IdSource(query=query), warehouse)


@pytest.mark.parametrize("given", [{}, {"file": "a.txt", "query": "t"}])
def test_a_source_is_either_a_file_or_a_query(given):
    with pytest.raises(ValueError, match="Give either a file of session IDs or a query"):
        IdSource(**given)

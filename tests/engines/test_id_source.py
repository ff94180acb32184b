"""A file or a query gives its distinct session IDs, or one clear error."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tracemalloc
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import duckdb
import pytest

from prefect_wix.errors import IdSourceError
from prefect_wix.load.id_source import IdSource
from prefect_wix.spool.id_spool import Spool
from prefect_wix.warehouse.factory import open_warehouse
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
        ("ids.csv", "id\na\n", "0 columns session_id"),
        ("ids.jsonl", '{"id": "a"}\n', "0 columns session_id"),
        ("ids.jsonl", "a\n", "can't be read as jsonl"),
        ("ids.jsonl", '{"session_id": "a"}\n{"session_id": 7}\n', "ID 2 in .* is not a session"),
        ("ids.jsonl", '{"session_id": ["a"]}\n', "is not a session ID"),
        ("ids.jsonl", '{"session_id": {"a": "b"}}\n', "is not a session ID"),
        ("ids.jsonl", '{"session_id": true}\n', "is not a session ID"),
        ("ids.jsonl", '{"session_id": "\\ud800"}\n', "is not a session ID"),
        ("ids.jsonl", '["session_id"]\n', "a line is not a JSON object"),
        ("ids.jsonl", '"session_id"\n', "a line is not a JSON object"),
        ("ids.jsonl", "7\n", "a line is not a JSON object"),
        ("ids.jsonl", "null\n", "a line is not a JSON object"),
        ("ids.jsonl", "[" * 100_000, "can't be read as jsonl"),
        ("ids.jsonl", '{"session_id": ' * 100_000, "can't be read as jsonl"),
        ("ids.jsonl", "9" * 10_000, "can't be read as jsonl"),
        ("ids.jsonl", '{"session_id": "a", "session_id": "b"}\n', "2 columns session_id"),
        ("ids.csv", "session_id,session_id\na,b\n", "2 columns session_id"),
        ("ids.csv", "session_id\na,b\n", "line 2 has 2 values for 1 column"),
        ("ids.csv", "session_id,device\na\n", "line 2 has 1 value for 2 columns"),
        ("ids.csv", 'session_id\n"a\nb\n', "can't be read as csv"),
        ("ids.csv", 'session_id\n"a"b\n', "can't be read as csv"),
        ("ids.csv", "", "0 columns session_id"),
        ("ids.csv", "session_id\n" + "x" * 200_000, "can't be read as csv"),
        ("ids.parquet", "no parquet", "can't be read as parquet"),
        ("ids.parquet", "", "can't be read as parquet"),
        ("ids.xls", "a", "Unknown format: .* Use a .csv"),
        ("ids.CSV", "session_id\na\n", "Unknown format: .* Use a .csv"),
        ("ids.txt", "a\x00b", "is not a session ID"),
    ],
)
async def test_a_file_without_ids_is_rejected_with_one_sentence(tmp_path, name, text, sentence):
    """The sentence does not quote the file: it may be a file of secrets."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(IdSourceError, match=sentence) as caught:
        await read(IdSource(file=path))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".ndjson", ".txt"])
async def test_a_file_that_is_no_utf_8_is_rejected_without_its_bytes(tmp_path, suffix):
    path = tmp_path / f"ids{suffix}"
    path.write_bytes(b"SECRET \xff" * 100)
    with pytest.raises(IdSourceError, match="can't be read as") as caught:
        await read(IdSource(file=path))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("suffix", WRITERS)
async def test_only_a_regular_file_is_read(tmp_path, suffix):
    """A folder, a pipe without a writer, a socket and a device end in one sentence at once."""
    folder, pipe = tmp_path / f"folder{suffix}", tmp_path / f"pipe{suffix}"
    listener, device = tmp_path / f"socket{suffix}", tmp_path / f"device{suffix}"
    folder.mkdir()
    os.mkfifo(pipe)
    device.symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listener))
        for path in (folder, pipe, listener, device):
            with pytest.raises(IdSourceError, match="is not a regular file"):
                await asyncio.wait_for(read(IdSource(file=path)), 60)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("s3://bucket/ids.parquet", "file is a URL"),
        ("https://user:SECRET@example.com/ids.csv", "file is a URL"),
        ("file:///tmp/ids.csv", "file is a URL"),
        ("~no-such-user/ids.csv", "file begins with ~"),
        ("a\0b.csv", "file has a character"),
        ("\ud800.csv", "file has a character"),
        ("", "Unknown format"),
        (f"{'n' * 300}.csv", "can't be read"),
    ],
)
async def test_a_path_that_names_no_file_is_rejected_with_one_sentence(path, sentence):
    with pytest.raises(IdSourceError, match=sentence) as caught:
        await read(IdSource(file=Path(path)))
    assert "SECRET" not in str(caught.value)


async def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ids.txt").write_text("a")
    assert await read(IdSource(file=Path("~/ids.txt"))) == ["a"]


ODD_NAMES = [
    *("ids[1].parquet", "ids*.parquet", "ids?.parquet", "[!a]ds1.parquet", "[a-z]ds1.parquet"),
    *("ids{1,2}.parquet", "it's.parquet", 'a"b.parquet', "back\\slash.parquet", "100%20.parquet"),
    *("$1.parquet", "~x.parquet", "a\nb.parquet", " a b .parquet", "é😀.parquet", "]x[.parquet"),
    *("http:x.parquet", "a,b.parquet", "a#b.parquet", "x?version=1.parquet", "[.parquet"),
    *("**/ids.parquet", "day[1]/ids.parquet", "a=1/ids.parquet", "session_id=evil/ids.parquet"),
    *("session_id=evil/a[1]/ids*.parquet", "A=1/SESSION_ID=evil/ids.parquet"),
]
DECOYS = ["ids1.parquet", "idsx.parquet", "day1/ids.parquet", "backslash.parquet", "x.parquet"]


def write_ids(path, *ids, column="session_id"):
    path.parent.mkdir(parents=True, exist_ok=True)
    plain, query = path.parent / "plain", f"SELECT unnest($1) AS {column}"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({query}) TO '{plain}' (FORMAT parquet)", [list(ids)])
    plain.rename(path)


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_a_parquet_file_is_read_by_its_literal_path(tmp_path, name, monkeypatch):
    """DuckDB takes a path as a pattern, and `a=1` as a column; other files are never read."""
    monkeypatch.chdir(tmp_path)
    for decoy in DECOYS:
        write_ids(tmp_path / decoy, "wrong")
    path = tmp_path / name
    parent = tmp_path / "made" / "ids.parquet"
    write_ids(parent, "right")
    path.parent.mkdir(parents=True, exist_ok=True)
    parent.rename(path)
    assert await read(IdSource(file=path)) == ["right"]
    assert await read(IdSource(file=Path(name))) == ["right"]


async def test_a_pattern_with_a_backslash_reads_no_other_file(tmp_path):
    """DuckDB's patterns cannot express it: one sentence, and no file is read."""
    for name in ("b[1.parquet", "b1.parquet", "b\\1.parquet", "b\\[1].parquet"):
        write_ids(tmp_path / "made" / "ids.parquet", name)
        (tmp_path / "made" / "ids.parquet").rename(tmp_path / name)
    with pytest.raises(IdSourceError, match="backslash"):
        await read(IdSource(file=tmp_path / "b\\[1].parquet"))


@pytest.mark.parametrize("name", ["ids.parquet", "ids[1].parquet"])
async def test_a_path_through_a_link_is_the_file_that_it_is_for_others(tmp_path, name):
    """The parent of a linked folder is the parent of its target."""
    write_ids(tmp_path / "far" / "deep" / "plain.parquet", "unused")
    for folder, one in (("far", "right"), (".", "wrong")):
        write_ids(tmp_path / folder / "new" / "ids.parquet", one)
        (tmp_path / folder / "new" / "ids.parquet").rename(tmp_path / folder / name)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    assert await read(IdSource(file=tmp_path / "link" / ".." / name)) == ["right"]


async def test_a_parquet_file_of_many_row_groups_is_read_completely(tmp_path):
    path = tmp_path / "ids.parquet"
    with duckdb.connect() as connection:
        query = "SELECT CAST(n AS TEXT) AS SESSION_ID, n AS other FROM range(50000) AS t(n)"
        connection.execute(f"COPY ({query}) TO '{path}' (ROW_GROUP_SIZE 2048)")
        groups = f"SELECT count(DISTINCT row_group_id) FROM parquet_metadata('{path}')"
        assert connection.execute(groups).fetchone()[0] > 10
    assert len(await read(IdSource(file=path))) == 50_000


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
async def test_the_case_of_the_column_does_not_matter(tmp_path, suffix):
    """Some databases export SESSION_ID."""
    path = tmp_path / f"ids{suffix}"
    if suffix == ".parquet":
        write_ids(path, "a", column="SESSION_ID")
    else:
        path.write_text("Session_ID\na\n" if suffix == ".csv" else '{"SESSION_ID": "a"}\n')
    assert await read(IdSource(file=path)) == ["a"]


@pytest.mark.parametrize(
    "ids", ["1", "1.5", "'a'::BLOB", "['a']", "DATE '2024-01-01'", "{'a': 'b'}"]
)
async def test_a_parquet_column_that_is_no_text_is_rejected(tmp_path, ids):
    """As text they would be other IDs: 1e5 becomes 100000.0, and ö becomes an escape."""
    path = tmp_path / "ids.parquet"
    duckdb.sql(f"COPY (SELECT {ids} AS session_id) TO '{path}'")
    with pytest.raises(IdSourceError, match="is not a session ID"):
        await read(IdSource(file=path))


async def test_a_parquet_column_of_uuids_is_read_as_text(tmp_path):
    path, one = tmp_path / "ids.parquet", str(uuid4())
    duckdb.sql(f"COPY (SELECT UUID '{one}' AS session_id) TO '{path}'")
    assert await read(IdSource(file=path)) == [one]


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


CHANGES = [
    "INSERT INTO {t} (session_id) VALUES ('z') RETURNING session_id",
    "DELETE FROM {t} RETURNING session_id",
    "WITH d AS (DELETE FROM {t} RETURNING session_id) SELECT session_id FROM d",
    "SELECT 'a' AS session_id) AS s) AS i WHERE $1 = ''; DELETE FROM {t}; --",
    "SELECT nextval('{s}.numbers')::TEXT AS session_id",
    "COPY {t} TO '{f}'",
    "ATTACH '{f}' AS other",
    "DROP TABLE {t}",
    "CREATE TABLE {s}.more AS SELECT 'a' AS session_id",
    "SET search_path = 'x'",
    "BEGIN",
    "COMMIT",
]


@pytest.mark.parametrize("query", CHANGES)
async def test_a_query_changes_nothing(bench, tmp_path, query):
    """It fails with one sentence; tables, sequences and files are as they were."""
    warehouse = await bench.ready()
    await land(warehouse, ["a", "b"])
    await bench.sql(f"CREATE SEQUENCE {bench.schema}.numbers START 7")
    file = tmp_path / "copied.txt"
    table = bench.name("wix_session_ids")
    with pytest.raises(IdSourceError, match=r"query") as caught:
        await read(IdSource(query=query.format(t=table, s=bench.schema, f=file)), warehouse)
    assert len(str(caught.value).splitlines()) == 1
    assert await bench.ids() == ["a", "b"]
    assert (await bench.sql(f"SELECT nextval('{bench.schema}.numbers')"))[0][0] == 7
    assert not file.exists()
    await land(warehouse, ["c"], hours=1)
    assert await bench.ids() == ["c"]


FILE_READS = [
    "SELECT * FROM read_csv('{f}')",
    "SELECT content AS session_id FROM read_text('{f}')",
    "SELECT content AS session_id FROM read_blob('{f}')",
    "SELECT * FROM read_json('{f}')",
    "SELECT file AS session_id FROM glob('{f}')",
    "SELECT session_id FROM query('SELECT * FROM read_csv(''{f}'')')",
    "FROM '{f}'",
    '"{n}"',
    "wix.peek",
    "SELECT session_id FROM read_duckdb('{f}')",
    "SELECT session_id FROM sqlite_scan('{f}', 'ids')",
    "SELECT 'x' AS session_id FROM enable_logging(storage='file', storage_path='{f}.log')",
    "SELECT getenv('WIX_TEST') AS session_id",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "elsewhere",
]


@pytest.mark.parametrize("query", FILE_READS)
async def test_a_query_in_duckdb_reads_no_file(make_bench, tmp_path, query, monkeypatch):
    """Also not through a view, and no setting, extension, variable of Python or environment."""
    monkeypatch.setenv("WIX_TEST", "SECRET")
    monkeypatch.chdir(tmp_path)
    bench = make_bench("duckdb")
    warehouse = await bench.ready()
    path = tmp_path / "ids.csv"
    path.write_text("session_id\nSECRET\n")
    await bench.sql(f"CREATE VIEW wix.peek AS SELECT * FROM read_csv('{path}')")
    monkeypatch.setitem(globals(), "elsewhere", duckdb.sql("SELECT 'SECRET' AS session_id"))
    with pytest.raises(IdSourceError, match="query") as caught:
        await read(IdSource(query=query.format(f=path, n=path.name)), warehouse)
    assert "SECRET" not in str(caught.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["ids.csv", "sessions.duckdb"]


async def test_a_load_of_this_process_goes_on_beside_a_query(make_bench):
    """The connection of the query is read-only; the next transaction has one that can write."""
    bench = make_bench("duckdb")
    warehouse = await bench.ready()
    ids = [f"{n:06}" for n in range(20_000)]
    async with warehouse.kept_open():
        await land(warehouse, ids)
        assert await read(IdSource(query="wix.wix_session_ids"), warehouse) == ids
        await land(warehouse, ids[1:], hours=1)
    assert sorted(await bench.ids()) == ids[1:]


async def test_a_query_beside_an_open_connection_is_rejected_with_one_sentence(make_bench):
    """In one process DuckDB opens a file in one way only."""
    bench = make_bench("duckdb")
    warehouse = await bench.ready()
    with (
        duckdb.connect(str(bench.file)),
        pytest.raises(IdSourceError, match="same database file with a different config"),
    ):
        await read(IdSource(query="wix.wix_session_ids"), warehouse)


async def test_a_function_of_postgres_leaves_no_large_object(make_bench):
    """PostgreSQL 15 creates them in a READ ONLY transaction, so it is rolled back."""
    bench = make_bench("postgres")
    warehouse = await bench.ready()
    with suppress(IdSourceError):  # newer servers refuse
        await read(IdSource(query="SELECT lo_create(4711)::TEXT AS session_id"), warehouse)
    assert await bench.sql("SELECT FROM pg_largeobject_metadata WHERE oid = 4711") == []


SERVER_FUNCTIONS = [
    "SELECT pg_read_file('PG_VERSION') AS session_id",
    "SELECT pg_ls_dir('.') AS session_id",
    "SELECT set_config('transaction_read_only', 'off', true) || nextval('{s}.numbers')::TEXT"
    " AS session_id",
    "SELECT {s}.bump() AS session_id",
]


@pytest.mark.parametrize("query", SERVER_FUNCTIONS)
async def test_a_query_in_postgres_calls_no_function_with_an_effect(make_bench, query):
    """Its transaction is read-only, and files of the server are a right of superusers."""
    owner = make_bench("postgres")
    await owner.ready()
    s, user = owner.schema, f"u_{uuid4().hex}"
    for statement in (
        f"CREATE SEQUENCE {s}.numbers START 7",
        f"CREATE FUNCTION {s}.bump() RETURNS TEXT LANGUAGE sql AS "
        f"$$ INSERT INTO {s}.wix_session_ids (session_id) VALUES ('z') RETURNING session_id $$",
        f"CREATE ROLE {user} LOGIN PASSWORD 'pw'",
        f"GRANT ALL ON SCHEMA {s} TO {user}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA {s} TO {user}",
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {s} TO {user}",
    ):
        await owner.sql(statement)
    try:
        url = f"postgresql://{user}:pw@127.0.0.1:{owner.server.port}/postgres"
        with pytest.raises(IdSourceError, match="query"):
            await read(IdSource(query=query.format(s=s)), open_warehouse(url, schema=s))
        assert await owner.ids() == []
        assert (await owner.sql(f"SELECT nextval('{s}.numbers')"))[0][0] == 7
    finally:
        await owner.sql(f"DROP OWNED BY {user}")
        await owner.sql(f"DROP ROLE {user}")


async def test_the_ids_of_a_query_are_not_quoted(bench):
    warehouse = await bench.ready()
    with pytest.raises(IdSourceError, match="ID 1 in the query's result is not") as caught:
        await read(IdSource(query="SELECT 'SECRET' || chr(10) AS session_id"), warehouse)
    with pytest.raises(IdSourceError) as also:
        await read(IdSource(query="SELECT 'SECRET' AS other"), warehouse)
    assert "SECRET" not in f"{caught.value} {also.value}"


@pytest.mark.parametrize("given", [{}, {"file": "a.txt", "query": "t"}])
def test_a_source_is_either_a_file_or_a_query(given):
    with pytest.raises(ValueError, match="Give either a file of session IDs or a query"):
        IdSource(**given)

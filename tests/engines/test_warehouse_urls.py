"""A warehouse URL opens what it names or is refused, and no error contains its secrets."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import traceback
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_wix import SessionsWarehouse
from prefect_wix.errors import WarehouseAccessError, WarehouseBusyError, WarehouseError
from prefect_wix.warehouse.factory import open_warehouse, parse_url
from prefect_wix.warehouse.interface import driver_text
from prefect_wix.warehouse.schema import Statement
from tests.warehouses import MOBILE, PASSWORD, QUOTED, PostgresBench, land

CANARY = "qzJ7xWv9kGp2"
"""A secret without a word: no message contains a piece of it by chance."""


def pieces(secret):
    """Every piece of four characters."""
    return {secret[start : start + 4] for start in range(len(secret) - 3)}


def texts_of(error):
    """Whatever a log, a state or a traceback may print of an error and of its chain."""
    texts = []
    while error is not None:
        attributes = {**vars(error), "__notes__": getattr(error, "__notes__", [])}
        texts += [str(error), repr(error), repr(error.args), repr(attributes)]
        texts += traceback.format_exception(error)
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def assert_hidden(secret, *texts):
    found = {piece for piece in pieces(secret) for text in texts if piece in text}
    assert not found


def refused(url, **fields):
    """The text of the refusal by the block, and by `open_warehouse`."""
    with pytest.raises(ValidationError) as by_block:
        SessionsWarehouse(url=url, **fields)
    with pytest.raises(ValueError, match=r"[Ww]arehouse|URL|schema") as by_factory:
        open_warehouse(url, **fields)
    return texts_of(by_block.value) + texts_of(by_factory.value)


# -- a file on this machine ------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("duckdb:///x.duckdb", "x.duckdb"),
        ("DUCKDB:///x.duckdb", "x.duckdb"),
        ("DuckDB:///./a/x.duckdb", "a/x.duckdb"),
        ("duckdb:///{here}/x.duckdb", "x.duckdb"),
        ("duckdb:////{here}/x.duckdb", "x.duckdb"),
        ("duckdb:///a//x.duckdb", "a/x.duckdb"),
        ("duckdb:///my%20data.duckdb", "my data.duckdb"),
        ("duckdb:///my data.duckdb", "my data.duckdb"),
        ("duckdb:///x%231.duckdb", "x#1.duckdb"),
        ("duckdb:///100%25.duckdb", "100%.duckdb"),
        ("duckdb:///me@work/a+b.duckdb", "me@work/a+b.duckdb"),
        ("duckdb:///donn\u00e9es.duckdb", "donn\u00e9es.duckdb"),
        ("duckdb:///a/b:c~.duckdb", "a/b:c~.duckdb"),
        ("duckdb:///x.duckdb?memory_limit=1GB&threads=2", "x.duckdb"),
    ],
)
async def test_a_duckdb_url_opens_the_file_that_it_names(here, url, file):
    """And creates no other file."""
    await open_warehouse(url.format(here=here)).prepare()
    assert [path for path in here.rglob("*") if path.is_file()] == [here / file]


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("parquet:///lake", "lake"),
        ("PARQUET:///lake/", "lake"),
        ("parquet:///{here}/a/lake", "a/lake"),
        ("parquet:///a%20b", "a b"),
    ],
)
async def test_a_parquet_url_opens_the_folder_that_it_names(here, url, folder):
    await open_warehouse(url.format(here=here)).prepare()
    [version] = here.rglob("version.json")
    assert version == here / folder / "wix_session_schema" / "version.json"


NO_PATHS = [
    *("{0}:rel.duckdb", "{0}:/data/x", "{0}://rel.duckdb", "{0}://host/x", "{0}://me:pw@/x"),
    *("{0}://localhost:99/x", "{0}:///", "{0}:////", "{0}://", "{0}:", "{0}", "{0}:\\data\\x"),
    *("{0}:///~/x", "{0}:///~", "{0}:///~me/x", "{0}:////~/x", "{0}:///%7E/x"),
    *("{0}:///x#1.duckdb", "{0}:///x?", "{0}:///x?.duckdb", "{0}:///x?a", "{0}:///x?a=1?b=2"),
    *("{0}:///50%.duckdb", "{0}:///x%zz", "{0}:///x%2", "{0}:///%FF", "{0}:///x%00", "{0}:///%C3"),
    *(" {0}:///x", "{0}:///x ", "{0}:///x\n", "\n{0}:///x", "{0}:///a\nb", "{0}:///a\tb"),
    *("{0}:///x\0", "{0}:///x\0.duckdb", "{0}:/// x", "{0}:///%20x", "{0}:///x%20", "{0}:///x%0A"),
    *("{0}:///x\u200b", "\ufeff{0}:///x", "{0}:///x\u00a0", "{0}:///a\u2028b", "{0} :///x"),
    *("{0}:///C:\\data\\x", "{0}:///data\\x", "{0}:///a%5Cb", "{0}:///C:/data/x", "{0}:\\\\\\x"),
    *("{0}:///file:///x", "{0}:///s3://bucket/x", "{0}:///motherduck:shop", "{0}:///sqlite:x"),
    *("{0}:///:memory:", "{0}:///:MEMORY:", "{0}:///:memory:x", "{0}:///%3Amemory%3A"),
    *("{0}:////:memory:", "{0}:///./:memory:", "{0}:///a*", "{0}:///[a]", "{0}:///a%3Fb"),
    *('"{0}:///x"', "'{0}:///x'", "{0};:///x", "{0}+x:///x", "url={0}:///x", "<{0}:///x>"),
]


@pytest.mark.parametrize("form", NO_PATHS)
@pytest.mark.parametrize("scheme", ["duckdb", "parquet"])
def test_a_path_that_may_mean_another_file_is_refused(here, scheme, form):
    """When the block is created, before a file is."""
    refused(form.format(scheme))
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "query",
    [
        *("memory_limit=1GB&memory_limit=2GB", "memory_limit=1GB&MEMORY_LIMIT=2GB", "threads="),
        *("=1", "threads", "threads=1&", "&threads=1", "thread=1", "threads=many", "threads=0"),
        *("memory_limit=lots", "access_mode=read_only", "threads=%zz", "token=x"),
        *("timezone=Nowhere", "threads=+1", "a b=1", "threads=1#x"),
    ],
)
def test_a_setting_of_duckdb_that_is_wrong_is_refused(here, query):
    """DuckDB checks the settings when the block is created."""
    refused(f"duckdb:///x.duckdb?{query}")
    assert list(here.iterdir()) == []


def test_parquet_has_no_settings():
    """They would have no effect."""
    assert "settings" in refused("parquet:///lake?compression=zstd")


@pytest.mark.parametrize("schema", ["", "a b", 'a"b', "1a", "a" * 64, "é", "a\n", "a.b", "a;b"])
def test_a_schema_that_is_no_name_is_refused(schema):
    refused("duckdb:///x.duckdb", schema=schema)


async def test_a_file_that_another_process_holds_is_named_without_its_settings(tmp_path, caplog):
    """The error names the process."""
    caplog.set_level(logging.DEBUG)
    program = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); input()"
    command = [sys.executable, "-c", program, str(tmp_path / "x.duckdb")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    holder = await asyncio.create_subprocess_exec(*command, **pipes)
    await holder.stdout.readline()
    warehouse = open_warehouse(f"duckdb:///{tmp_path}/x.duckdb?custom_user_agent={CANARY}")
    warehouse._busy_timeout = 0.1
    with pytest.raises(WarehouseBusyError, match=str(holder.pid)) as caught:
        await warehouse.prepare()
    await holder.communicate(b"\n")
    assert "\n" not in str(caught.value)
    assert_hidden(CANARY, texts_of(caught.value), caplog.text)


# -- object stores ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("S3A://my-bucket.x/prefix/", "s3a://my-bucket.x/prefix"),
        ("gs://bucket", "gs://bucket"),
        ("gcs://bucket/a:b/my data", "gcs://bucket/a:b/my data"),
        ("az://container/x", "az://container/x"),
        ("abfs://container/x", "abfs://container/x"),
        ("abfss://c@account.dfs.core.windows.net/x", "abfss://c@account/x"),
    ],
)
def test_an_object_store_url_is_its_root(url, root, monkeypatch):
    """No request is made, and credentials are read from the environment."""
    text = "AccountName=account;AccountKey=a2V5;EndpointSuffix=core.windows.net"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    assert open_warehouse(url)._store.name == root


@pytest.mark.parametrize("scheme", ["s3", "S3", "gs", "abfs", "az"])
@pytest.mark.parametrize(
    "rest",
    [
        *("", ":", ":bucket", ":/bucket", "://", ":///prefix", "://me@bucket", "://bucket:443/x"),
        *("://AKIA:qzJ7xWv9kGp2@bucket/x", "://AKIA:qzJ7/xWv9kGp2@bucket/x", "://bucket/x@y"),
        *("://bucket/x?key=qzJ7xWv9kGp2", "://bucket?", "://bucket/x#1", "://bucket/../x"),
        *("://bucket//x", "://bucket/a/./b", "://bucket/a%20b", "://bucket/a*", "://bucket/[a]"),
        *("://bucket ", " ://bucket", "://bucket/\n", "://bucket\\x", "://buc ket/x", "://-"),
        *("://me@account.dfs.core.windows.net.evil/x", "://account.dfs.core.windows.net@c/x"),
    ],
)
def test_an_object_store_url_with_more_than_a_bucket_and_a_prefix_is_refused(scheme, rest):
    """Its credentials come from the environment, and no store reads the rest."""
    assert_hidden(CANARY, refused(scheme + rest))


@pytest.mark.parametrize(
    "url", ["file:///data/x", "file:x", "memory://bucket", "http://host/x", "/x"]
)
def test_other_schemes_are_refused(url):
    assert "Unsupported warehouse URL" in refused(url)


# -- database URLs ---------------------------------------------------------------------------------

DATABASES = ["postgresql", "postgres", "postgresql+asyncpg"]
AMBIGUOUS = [
    *("u@server:{0}@h/db", "u:{0}/db", "u:{0}", "u:50%{0}@h", "u:{0}%@h/db", "u:{0}%ab@h/db"),
    *("u:{0} {0}@h/db", "u:{0}@{0}@h/db", "u:{0}#{0}@h/db", "u:{0}?{0}@h/db", "u:{0}[{0}@h/db"),
    *("u:{0}]@h/db", "u:{0}/{0}@h/db", "u:12/{0}@h", "u:12?{0}@h", "u:{0}\\{0}@h/db"),
    *("u:{0}\n@h/db", "u:{0}@h/db\n", " u:{0}@h/db", "u:{0}\0@h/db", "u:{0}%00@h/db"),
    *("u:{0}@h:port/db", "u:{0}@h:99999/db", "u:{0}@h:0/db", "u:{0}@h:-1/db", "u:{0}@h:1:2/db"),
    *("u:{0}@h,/db", "u:{0}@,h/db", "u:{0}@[::1/db", "u:{0}@::1/db", "u:{0}@h/db/x", "u:{0}@h//db"),
    *("u:{0}@h\u2100/db", "u@h\u2100{0}/db", "u:{0}@h/db sslmode=require", "u:{0}@h/d@b"),
    *("h/db?password={0}&{0}", "h/db?password={0}&", "h/db?password={0}#x", "h/db?password={0}?"),
    *("h/db?password={0}&password=x", "h/db?PASSWORD={0}", "h/db?Password={0}&password={0}"),
    *("h/db?password={0}%", "h/db?password={0}%ff", "h/db?password={0} x", "h/db?password={0}+x"),
    *("h/db?password={0}@h", "h/db?{0}", "h/db?={0}", "h/db?password=&sslpassword={0}"),
    *("u:x@h/db?password={0}", "u@h/db?user=v&password={0}", "h/db?dbname=x&password={0}"),
    *("h/db?host=x&password={0}", "h/db?port=1&password={0}", "h?dbname=a&database=b&password={0}"),
    *("/db?port={0}", "/db?port=99999&password={0}", "/db?host=&password={0}", "/db?host={0}%20x"),
    *("/db?host=a,&password={0}", "/db?host=a:{0}", "/db?host=[{0}", "h/db?sslpassword={0}&x"),
]


@pytest.mark.parametrize("rest", AMBIGUOUS)
@pytest.mark.parametrize("scheme", DATABASES)
def test_an_ambiguous_database_url_is_refused_without_its_secret(scheme, rest, caplog):
    """When the block is created. The error quotes nothing of the URL."""
    caplog.set_level(logging.DEBUG)
    assert_hidden(CANARY, refused(f"{scheme}://{rest.format(CANARY)}"), caplog.text)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufffd"), min_size=1)


@given(TEXT, TEXT, TEXT)
def test_every_percent_encoded_login_is_read_as_it_was_written(user, password, database):
    """Whatever it contains."""
    user, password, database = (quote(text, safe="") for text in (user, password, database))
    rest = f"{user}:{password}@host:1/{database}?sslpassword={password}"
    url = parse_url(f"postgresql://{rest}")
    assert url.address.get_secret_value() == rest
    assert url.place == f"postgresql://host:1/{database}"


@given(st.text(st.characters(codec="utf-8"), max_size=4), st.text("@:/?#%[] &=+\\", max_size=4))
def test_no_text_around_a_password_brings_it_into_a_message(before, after):
    """The URL is refused, or its place has no piece of the password."""
    try:
        warehouse = open_warehouse(f"postgresql://u:{before}{CANARY}{after}@h/db")
    except ValueError as error:
        assert_hidden(CANARY, texts_of(error))
    else:
        assert_hidden(CANARY, repr(vars(warehouse)))


@pytest.mark.parametrize(
    "url",
    [
        *(f"snowflake://u@x:{CANARY}@a/db", f"snowflake://u:{CANARY}/db", f"mysql://u:{CANARY}@h"),
        *(f"snowflake://u:{CANARY}@a/db/we%22ird", f"snowflake://u:{CANARY}@a/a/b/c"),
        *(f"snowflake://u:{CANARY}@/db", f"snowflake://u:{CANARY}@a/db?role=a&role=b"),
        *(
            f"snowflake://u@a/db?password={CANARY}",
            f"snowflake://u:{CANARY}@a/",
            f"snowflake://a/{CANARY}",
        ),
        *(f"bigquery://p/d?credentials={CANARY}&x", f"bigquery://p:{CANARY}@p/d", f"{CANARY}"),
        *(f"bigquery://p/d?credentials=a&credentials={CANARY}", f"bigquery://p/d?key={CANARY}"),
        *(f"postgresql:{CANARY}", f"postgresql:/u:{CANARY}@h", f"postgres+odd://u:{CANARY}@h"),
        *(f"//u:{CANARY}@h", f"u:{CANARY}@h:5432/db", f"host=h password={CANARY}", f"s3:{CANARY}"),
    ],
)
def test_other_urls_with_a_secret_are_refused_without_it(url):
    assert_hidden(CANARY, refused(url))


def test_a_schema_is_not_quoted():
    """Someone may paste the URL into the wrong field."""
    assert_hidden(CANARY, refused("duckdb:///x.duckdb", schema=f"postgresql://u:{CANARY}@h"))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{CANARY}@h/db?sslpassword={CANARY}",
        f"postgresql://h/db?user=u&password={CANARY}",
        f"snowflake://u:{CANARY}@a/db?private_key_file_pwd={CANARY}&token={CANARY}",
        f"bigquery://p/d?credentials={CANARY}",
        f"duckdb:///x.duckdb?custom_user_agent={CANARY}",
    ],
)
def test_neither_a_block_nor_an_engine_nor_a_parsed_url_shows_a_secret(url):
    """In its text or in its attributes."""
    block = SessionsWarehouse(url=url)
    shown = []
    for one in (block, block.get_warehouse(), parse_url(url)):
        shown += [str(one), repr(one), repr(vars(one))]
    assert_hidden(CANARY, *shown)


# -- PostgreSQL itself -----------------------------------------------------------------------------


@pytest.fixture
async def postgres(postgres_server):
    bench = PostgresBench(postgres_server)
    yield bench
    await bench.close()


CLEAR = [
    "postgresql://postgres:{quoted}@127.0.0.1:{port}/postgres",
    "POSTGRESQL://postgres:{quoted}@127.0.0.1:{port}/postgres",
    "postgresql://postgres:{quoted}@127.0.0.1:{port}",
    "postgresql://127.0.0.1:{port}/postgres?user=postgres&password={quoted}",
    "postgresql://postgres@127.0.0.1:{port}/postgres?password={quoted}",
    "postgresql:///postgres?host=127.0.0.1&port={port}&user=postgres&password={quoted}",
    "postgresql://?host=127.0.0.1&port={port}&user=postgres&password={quoted}&dbname=postgres",
    "postgresql://postgres:{quoted}@127.0.0.1:{port}/postgres?sslmode=prefer&application_name=a%20b",
    "postgresql://postgres:{quoted}@127.0.0.1:{port}/postgres?options=-c%20lock_timeout=9s",
    "postgresql://postgres:{quoted}@127.0.0.1:{port}/%70ostgres",
]


@pytest.mark.parametrize("url", CLEAR)
async def test_every_clear_form_of_a_postgresql_url_works(postgres, url):
    """With a password that has every special character, percent-encoded."""
    url = url.format(quoted=QUOTED, port=postgres.server.port)
    await open_warehouse(url, schema=postgres.schema).prepare()


async def test_a_list_of_hosts_and_special_roles_work(postgres):
    """A user as Azure names them, a password that is not ASCII, and a host that is not reached."""
    role, port = f"u@{postgres.schema}", postgres.server.port
    await postgres.sql(f"""CREATE ROLE "{role}" LOGIN SUPERUSER PASSWORD 'h:u℀sh+ é'""")
    try:
        for password in ("h:u%E2%84%80sh+%20%C3%A9", "h:u\u2100sh+%20\u00e9"):
            user = role.replace("@", "%40")
            url = f"postgresql://{user}:{password}@127.0.0.1:1,127.0.0.1:{port}/postgres"
            await open_warehouse(url, schema=postgres.schema).prepare()
    finally:
        await postgres.close()
        await postgres.sql(f'DROP ROLE "{role}"')


async def test_the_password_may_come_from_a_file_or_the_environment(
    postgres, tmp_path, monkeypatch
):
    port = postgres.server.port
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    with monkeypatch.context() as environment:
        environment.setenv("PGPASSWORD", PASSWORD)
        await open_warehouse(url, schema=postgres.schema).prepare()
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"127.0.0.1:{port}:*:postgres:{PASSWORD}\n")
    passfile.chmod(0o600)
    await open_warehouse(f"{url}?passfile={passfile}", schema=postgres.schema).prepare()
    service = tmp_path / "service.conf"
    service.write_text(f"[shop]\nhost=127.0.0.1\nport={port}\nuser=postgres\ndbname=postgres\n")
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    await open_warehouse("postgresql://?service=shop", schema=postgres.schema).prepare()


async def test_a_unix_socket_is_a_host(tmp_path, monkeypatch):
    """In the query, and percent-encoded as the host: nothing listens there."""
    for url in (
        f"postgresql:///db?host={tmp_path}",
        f"postgresql://{str(tmp_path).replace('/', '%2F')}/db",
    ):
        with pytest.raises(WarehouseAccessError, match="No such file"):
            await open_warehouse(url).prepare()


FAILING = [
    "postgres:{0}@127.0.0.1:{port}/postgres",
    "postgres:{0}@127.0.0.1:{port}/nowhere",
    "postgres:{0}@127.0.0.1:1/postgres",
    "postgres:{0}@no-such-host.invalid/postgres",
    "postgres:{0}@{long}/postgres",
    "127.0.0.1:{port}/postgres?user=postgres&password={0}",
    "postgres:{quoted}@127.0.0.1:{port}/postgres?unknown={0}",
    "postgres:{quoted}@127.0.0.1:{port}/postgres?{0}=x",
    "postgres:{quoted}@127.0.0.1:{port}/postgres?timezone={0}",
    "postgres:{quoted}@127.0.0.1:{port}/postgres?sslmode={0}",
    "postgres:{quoted}@127.0.0.1:{port}/postgres?target_session_attrs={0}",
    "postgres:{quoted}@127.0.0.1:{port}/postgres?ssl_min_protocol_version={0}&sslmode=require",
    "postgres:{quoted}@127.0.0.1:{port}/postgres?sslnegotiation={0}",
    "postgres:{quoted}@127.0.0.1:{port}/postgres?sslcert=/no/cert&sslpassword={0}&sslmode=require",
    "postgres:{quoted}@127.0.0.1:{port}/postgres?options={0}",
    "postgres:{quoted}@127.0.0.1:{port}/postgres?passwd=a%26b&client_encoding={0}",
]


@pytest.mark.parametrize("rest", FAILING)
async def test_no_failed_connection_prints_a_secret(postgres_server, rest, caplog):
    """Rejected, refused or misconfigured: an access error without a piece of it."""
    caplog.set_level(logging.DEBUG)
    canary = CANARY.lower() if "{0}=x" in rest else CANARY
    address = {"port": postgres_server.port, "quoted": QUOTED, "long": "h" * 300}
    warehouse = open_warehouse(f"postgresql://{rest.format(canary, **address)}", schema="wix")
    warehouse._busy_timeout = 0.1
    with pytest.raises(WarehouseAccessError, match=r"rejected|rejects|can't be reached") as caught:
        await warehouse.prepare()
    for secret in (canary, PASSWORD, QUOTED):
        assert_hidden(secret, texts_of(caught.value), caplog.text)
    assert "\n" not in str(caught.value)


async def test_a_message_of_postgresql_is_one_line(postgres):
    """PostgreSQL adds lines of details and hints, which a log line has no room for."""

    def no_such_function(_tables):
        yield Statement("SELECT no_such_function(1)")

    with pytest.raises(WarehouseError, match="HINT: ") as caught:
        await postgres.open().transact(no_such_function)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nDETAIL:  b\r\n\tHINT: c\n", "a DETAIL: b HINT: c"),
        ("", "OSError"),
        ("x" * 900, "x" * 500),
    ],
)
def test_the_text_of_a_driver_is_one_short_line(text, line):
    assert re.fullmatch(r".{1,500}", driver_text(OSError(text)))
    assert driver_text(OSError(text)) == line


@pytest.mark.parametrize(
    "name",
    ["channel_binding", "connect_timeout", "keepalives_idle", "pgbouncer", "load_balance_hosts"],
)
def test_an_option_of_a_provider_that_the_driver_lacks_is_named(name):
    """Its value is not."""
    with pytest.raises(ValueError, match=f"can't use {name} with this URL: remove") as caught:
        open_warehouse(f"postgresql://me@host/db?sslmode=require&{name}=hush")
    assert "hush" not in str(caught.value)


async def test_other_options_of_libpq_are_taken(postgres):
    options = "sslmode=prefer&target_session_attrs=read-write&application_name=loads"
    await open_warehouse(f"{postgres.url}?{options}", schema=postgres.schema).prepare()


@pytest.mark.parametrize(
    ("url", "schema"),
    [
        ("duckdb:///folder/sales.duckdb", "sales"),
        ("duckdb:///sales.2024.duckdb", "Sales"),
        ("duckdb:///x.duckdb", "temp"),
    ],
)
def test_a_schema_named_like_its_duckdb_file_is_refused(url, schema):
    """In DuckDB the name would be ambiguous."""
    with pytest.raises(ValueError, match="named like its file"):
        open_warehouse(url, schema=schema)


def test_a_schema_named_like_the_target_of_a_link_is_refused(tmp_path):
    """DuckDB names the database after the file that it opens."""
    (tmp_path / "current.duckdb").symlink_to(tmp_path / "sales.duckdb")
    url = f"duckdb:///{tmp_path}/current.duckdb"
    with pytest.raises(ValueError, match="named like its file"):
        open_warehouse(url, schema="sales")
    open_warehouse(url, schema="current")


@pytest.mark.parametrize("schemas", [("Main",), ("sales", "Sales"), ("Sales", "sales")])
async def test_schemas_of_different_case_are_one_in_duckdb(tmp_path, schemas):
    for schema in schemas:
        warehouse = open_warehouse(f"duckdb:///{tmp_path}/x.duckdb", schema=schema)
        await warehouse.prepare()
        await land(warehouse, ["a"])
    assert len(await warehouse.receipts(MOBILE.site_id, MOBILE.window)) == 1


async def test_schemas_of_different_case_are_two_in_postgres(postgres):
    await postgres.ready()
    other = postgres.schema.upper()
    try:
        warehouse = open_warehouse(postgres.url, schema=other)
        await warehouse.prepare()
        assert await warehouse.receipts(MOBILE.site_id, MOBILE.window) == []
    finally:
        await postgres.sql(f'DROP SCHEMA "{other}" CASCADE')

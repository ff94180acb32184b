"""PostgreSQL as it is run: behind PgBouncer, with TLS, and for roles with few rights."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time

import asyncpg
import pytest

from prefect_wix.errors import WarehouseAccessError
from prefect_wix.planning.partitions import JobRecord, JobState
from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.schema import Statement
from tests.emulators import listens
from tests.options import skip_without
from tests.processes import free_port
from tests.warehouses import (
    NOON,
    PASSWORD,
    QUOTED,
    PostgresBench,
    ids_of,
    land,
    on_day,
)


@pytest.fixture
async def postgres(postgres_server):
    bench = PostgresBench(postgres_server)
    yield bench
    await bench.close()


async def error_of(url, **fields):
    """The text of the access error; a permanent one comes at once and not after a minute."""
    async with asyncio.timeout(30):
        with pytest.raises(WarehouseAccessError) as caught:
            await open_warehouse(url, **fields).prepare()
    assert caught.value.affects_all
    return str(caught.value)


# -- PgBouncer -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pgbouncer(postgres_server):
    """The port of a PgBouncer with one connection, which each transaction shares."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        skip_without("PgBouncer")
    port, folder = free_port(), postgres_server._folder
    users, settings, log = (folder / f"pgbouncer.{name}" for name in ("users", "ini", "log"))
    users.write_text(f'"postgres" "{PASSWORD}"\n')
    settings.write_text(
        f"[databases]\n* = host=127.0.0.1 port={postgres_server.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {users}\n"
        "pool_mode = transaction\ndefault_pool_size = 1\n"
    )
    with log.open("wb") as output:
        # Like PostgreSQL, it refuses to run as root.
        process = subprocess.Popen([program, settings], stdout=output, stderr=output,
                                   **postgres_server._user)  # fmt: skip
    while not listens(port):
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    yield port
    process.terminate()
    process.wait(30)


async def test_a_load_runs_behind_pgbouncer_in_transaction_mode(postgres, pgbouncer):
    """Nothing depends on the session: no setting, lock, statement or table outlives its COMMIT."""
    url = postgres.url.replace(str(postgres.server.port), str(pgbouncer))
    warehouse = open_warehouse(url, schema=postgres.schema)
    await warehouse.prepare()
    claims = await asyncio.gather(
        *(
            warehouse.claim(JobRecord.intend(on_day(day), at=NOON, run_id=None), adopt_since=NOON)
            for day in range(1, 6)
        )
    )
    assert not any(claim.adopted for claim in claims)
    days = range(1, 6)
    await asyncio.gather(*(land(warehouse, ids_of("a", 3_000), on_day(day)) for day in days))
    landed = await asyncio.gather(
        *(land(warehouse, ids_of("b", 3_000), on_day(day), hours=1) for day in days)
    )
    assert {(one.state, one.removed) for one in landed} == {(JobState.LANDED, 3_000)}
    assert sorted(await postgres.check(on_day(1))) == sorted(ids_of("b", 3_000))

    connection = await asyncpg.connect(url)
    # The next program that uses the connection has none of our limits.
    assert await connection.fetchval("SHOW lock_timeout") == "0"
    await connection.close()


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        (QUOTED, "wrong", "SASL authentication failed"),
        ("postgres:", "nobody:", "SASL authentication failed"),
        ("/postgres", "/nowhere", 'database "nowhere" does not exist'),
        (
            "/postgres",
            "/postgres?sslmode=require",
            r'PostgreSQL server at "\S+" rejected SSL upgrade',
        ),
        ("/postgres", "/postgres?options=-c%20jit=off", "unsupported startup parameter: options"),
    ],
)
async def test_what_pgbouncer_refuses_is_not_tried_again(postgres, pgbouncer, old, new, cause):
    """It has one SQL state for a wrong password and for a server that is away."""
    url = postgres.url.replace(str(postgres.server.port), str(pgbouncer))
    error = await error_of(new.join(url.rsplit(old, 1)))
    assert re.match(rf"PostgreSQL rejected the login at \S+/\w+: {cause}\. Nothing was ", error)
    assert "Correct user, password, database and settings in the warehouse URL" in error


# -- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(postgres_server):
    """The folder of a certificate of localhost and of another one, each its own authority."""
    if shutil.which("openssl") is None:
        skip_without("openssl")
    folder = postgres_server._folder
    for name in ("localhost", "other"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt",
             "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"],
            check=True, capture_output=True,
        )  # fmt: skip
    shutil.chown(folder / "localhost.key", postgres_server.user)
    return folder


@pytest.fixture
async def tls(postgres, certificates):
    """The folder of the certificates; the server has the one of localhost."""
    for kind, ending in (("cert", "crt"), ("key", "key")):
        file = certificates / f"localhost.{ending}"
        await postgres.sql(f"ALTER SYSTEM SET ssl_{kind}_file = '{file}'")
    await has_tls(postgres, "on")
    yield certificates
    await has_tls(postgres, "off")


async def has_tls(postgres, value):
    await postgres.sql(f"ALTER SYSTEM SET ssl = {value}")
    await postgres.sql("SELECT pg_reload_conf()")
    while await postgres.sql("SHOW ssl") != [(value,)]:
        await asyncio.sleep(0.02)


def with_tls(postgres, settings, host="localhost"):
    return f"{postgres.url.replace('127.0.0.1', host)}?{settings}"


def uses_tls(_tables):
    return (yield Statement("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))


@pytest.mark.parametrize(
    "settings",
    [
        "sslmode=verify-full&sslrootcert={0}/localhost.crt",
        "sslmode=verify-full&sslrootcert=system",
        # libpq verifies here too; asyncpg alone would not.
        "sslrootcert=system",
        "sslmode=prefer&sslrootcert=system",
    ],
)
async def test_a_server_with_the_right_certificate_is_trusted(postgres, tls, monkeypatch, settings):
    """Of an authority in a file, or of those of the machine."""
    monkeypatch.setenv("SSL_CERT_FILE", f"{tls}/localhost.crt")
    warehouse = open_warehouse(with_tls(postgres, settings.format(tls)), schema=postgres.schema)
    await warehouse.prepare()
    assert [tuple(row) for row in await warehouse.read(uses_tls)] == [(True,)]


@pytest.mark.parametrize(
    ("settings", "host", "cause"),
    [
        ("sslmode=verify-full&sslrootcert={0}/localhost.crt", "127.0.0.1", "IP address mismatch"),
        ("sslmode=verify-full&sslrootcert={0}/other.crt", "localhost", "self-signed certificate"),
        ("sslmode=verify-full&sslrootcert=system", "localhost", "self-signed certificate"),
        ("sslmode=prefer&sslrootcert=system", "localhost", "self-signed certificate"),
        ("sslmode=verify-ca&sslrootcert={0}/localhost.key", "localhost", "NO_CERT"),
    ],
)
async def test_a_wrong_certificate_is_one_sentence(postgres, tls, settings, host, cause):
    """With its cause first: another host, another authority, no certificate."""
    error = await error_of(with_tls(postgres, settings.format(tls), host))
    assert re.match(rf"TLS failed at postgresql://{host}:\d+/postgres: .*{cause}", error)
    assert "Correct the host name or sslrootcert" in error


@pytest.mark.parametrize("settings", ["sslmode=verify-full", "sslmode=verify-ca"])
async def test_a_certificate_without_an_authority_names_the_setting(postgres, settings):
    """The driver expects a file in the home folder."""
    assert "sslmode=verify-full needs sslrootcert" in await error_of(with_tls(postgres, settings))


def test_certificates_of_a_client_are_refused_with_system_roots():
    """The driver would drop them, and a list of revoked certificates."""
    with pytest.raises(
        ValueError, match="can't use sslcert, sslcrl with this URL: remove"
    ) as caught:
        open_warehouse("postgresql://me@host/db?sslrootcert=system&sslcert=hush&sslcrl=hush")
    assert "hush" not in str(caught.value)


# -- roles with few rights -----------------------------------------------------------------------


@pytest.fixture
async def role(postgres):
    """The URL of a role that may create nothing, as a new one of PostgreSQL 15."""
    name = f"role_{postgres.schema}"
    await postgres.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'r'")
    yield postgres.url.replace(f"postgres:{QUOTED}", f"{name}:r")
    await postgres.sql(f"DROP OWNED BY {name} CASCADE")
    await postgres.sql(f"DROP ROLE {name}")


@pytest.mark.parametrize(
    ("schema", "cause"), [(None, "for schema public"), ("nowhere", "for database postgres")]
)
async def test_a_role_that_may_not_create_is_told_what_to_do(role, schema, cause):
    """PostgreSQL 15 lets nobody but the owner of the database create tables in public."""
    error = await error_of(role, schema=schema)
    assert re.match(rf"PostgreSQL denied the user a right at \S+: permission denied {cause}", error)
    assert "GRANT" in error
    assert "schema" in error.partition("GRANT")[2]


async def test_a_role_works_in_a_schema_of_its_own(postgres, role):
    """It needs no other right."""
    name = f"role_{postgres.schema}"
    await postgres.sql(f"CREATE SCHEMA {postgres.schema} AUTHORIZATION {name}")
    warehouse = open_warehouse(role, schema=postgres.schema)
    await warehouse.prepare()
    assert (await land(warehouse, ["a"])).sessions == 1
    assert await postgres.check() == ["a"]

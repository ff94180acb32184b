"""A canary key is used in every flow, and is stored and logged nowhere."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback

import duckdb
import pytest

from prefect_wix import SessionsQuery, SessionsWarehouse, WixAppCredentials, WixCredentials
from prefect_wix.client.models import MarkAction
from prefect_wix.errors import WarehouseAccessError, WixError
from prefect_wix.flows.list_sessions import list_sessions
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.flows.mark_recordings import mark_recordings
from prefect_wix.sandbox import Fault
from prefect_wix.warehouse import postgres

QUERY = SessionsQuery(start_date="2024-03-01", end_date="2024-03-02", device_type="ALL")
FAULTS = [
    [],
    [Fault("job_error")],
    [Fault("forbidden")],
    [Fault("expired_token")],
    [Fault("dropped_after", on="list")],
    [Fault("html", on="list", status=200)],
    [Fault("wrong_total")],
]


@pytest.fixture(params=["key", "app"])
async def secret_and_credentials(request, shop):
    """The secret, and a saved block that holds it."""
    # Incomplete windows are split into days, which takes more than 200 requests in a minute.
    options = {"base_url": shop.url, "requests_per_minute": 100_000}
    if request.param == "key":
        block = WixCredentials(api_key=shop.api_key, site_id=shop.site_id, **options)
        secret = shop.api_key
    else:
        block = WixAppCredentials(
            app_id=shop.app_id,
            app_secret=shop.app_secret,
            instance_id=shop.instance_id,
            **options,
        )
        secret = shop.app_secret
    await block.asave("canary", overwrite=True)
    return secret, await type(block).aload("canary")


async def test_no_secret_is_stored_or_logged(
    shop, secret_and_credentials, prefect_server, tmp_path, caplog
):
    """Neither a completed nor a failed run leaves the key in Prefect, in logs or on disk.

    Searched: the server's database (parameters, states, logs, events, artifacts, block documents),
    result storage, output files, log records at DEBUG, and every exception in every chain.
    """
    secret, credentials = secret_and_credentials
    caplog.set_level(logging.DEBUG)
    warehouse = SessionsWarehouse(url=f"duckdb:///{tmp_path}/sessions.duckdb")
    chains = []
    for faults in FAULTS:
        shop.faults = faults
        runs = [
            list_sessions(credentials, QUERY, tmp_path / "out.csv"),
            load_sessions(credentials, warehouse, QUERY.start_date, QUERY.end_date, days=None),
            mark_recordings(credentials, warehouse, MarkAction.RECORDED, query="wix_session_ids"),
        ]
        if not faults:
            await runs.pop(1)  # creates the tables
        for run in [asyncio.ensure_future(run) for run in runs]:
            try:
                await run
            except WixError as error:
                chains.extend(chain_of(error))
    assert len(chains) >= 8, "the faults did not make the runs fail"
    contents = await prefect_server.contents()
    assert b"load-sessions" in contents, "the server has no runs to search"
    places = {
        "server": contents,
        **{path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()},
        "logs": caplog.text.encode(),
        "errors": "\n".join(chains).encode(),
    }
    assert [place for place, content in places.items() if secret.encode() in content] == []


PASSWORD = "qzJ7xWv9kGp2"
UNREACHABLE = [
    "postgresql://me:{}@127.0.0.1:1/db",
    "postgresql://127.0.0.1:1/db?user=me&password={}",
]


@pytest.mark.parametrize("url", UNREACHABLE)
async def test_no_secret_of_a_warehouse_is_stored_or_logged(
    credentials, prefect_server, caplog, monkeypatch, url
):
    """A load into a warehouse that can't be opened leaves no piece of its password or token."""
    caplog.set_level(logging.DEBUG)

    def fail(database, config=None):
        raise duckdb.IOException(f"Could not set lock on {database} {config}")

    monkeypatch.setattr(duckdb, "connect", fail)
    monkeypatch.setattr(postgres, "BUSY_TIMEOUT_SECONDS", 0.1)
    warehouse = SessionsWarehouse(url=url.format(PASSWORD))
    await warehouse.save("canary", overwrite=True)
    warehouse = await SessionsWarehouse.load("canary")
    with pytest.raises(WarehouseAccessError) as caught:
        await load_sessions(credentials, warehouse, QUERY.start_date, QUERY.end_date, days=None)
    contents = await prefect_server.contents()
    assert b"load-sessions" in contents, "the server has no runs to search"
    found = "".join([*chain_of(caught.value), caplog.text, contents.decode(errors="replace")])
    assert pieces_of_password(found) == []


def pieces_of_password(text):
    """The pieces of `PASSWORD` in a text, without the values that Prefect has encrypted.

    Those of the blocks of all tests have any four characters by chance.
    """
    text = re.sub(r"gAAAAA[\w-]+=*", "", text)
    return [piece for n in range(9) if (piece := PASSWORD[n : n + 4]) in text]


def chain_of(error):
    """All texts of an error and of its causes."""
    seen = []
    while error is not None and len(seen) < 20:
        seen.append(f"{error!r} {error} {vars(error)} {traceback.format_exception(error)}")
        error = error.__cause__ or error.__context__
    return seen


async def test_the_search_finds_a_leaked_key(shop, credentials, tmp_path):
    """A key that is written in clear text is found."""
    (tmp_path / "leak.txt").write_text(f"key={shop.api_key}")
    assert any(shop.api_key.encode() in path.read_bytes() for path in tmp_path.iterdir())

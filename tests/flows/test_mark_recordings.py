"""The flow mark-recordings: what it marks, what it shows, and what it rejects."""

from __future__ import annotations

import json

import duckdb
import pytest

from prefect_wix.client.models import MarkAction
from prefect_wix.errors import IdSourceError, MarkError, WarehouseUnsupportedError
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.flows.mark_recordings import RESULT_KEY, UNMARKED_KEY, mark_recordings
from prefect_wix.sandbox import Fault

RECORDED, DELETED = MarkAction.RECORDED, MarkAction.DELETED
DAY = {"start_date": "2024-03-01", "end_date": "2024-03-02", "segments": ["device_type=MOBILE"]}


@pytest.fixture
def recordings(shop, tmp_path):
    """A file with the first 20 sessions of the shop."""
    path = tmp_path / "recordings.txt"
    path.write_text("\n".join(shop.world.ids[place] for place in range(20)))
    return path


def ids_in(path):
    return set(path.read_text().splitlines())


async def test_the_ids_of_a_file_are_marked_and_shown(
    shop, credentials, warehouse, recordings, artifacts
):
    """Every ID is marked, and the table counts the results."""
    summary = await mark_recordings(credentials, warehouse, RECORDED, recordings)
    assert summary.complete
    assert shop.recorded == ids_in(recordings)
    table = (await artifacts(RESULT_KEY))[0]
    description = f"Site {shop.site_id}: 20 of 20 sessions marked as recorded"
    assert table.description == description
    assert json.loads(table.data)[0] == {
        "result": "marked",
        "ids": "20",
        "meaning": "Wix confirmed it.",
    }


async def test_the_ids_of_a_query_are_marked(shop, credentials, warehouse, database):
    """Landed sessions are selected by SQL and marked; a second run sends nothing."""
    await load_sessions(credentials, warehouse, **DAY)
    query = "SELECT session_id FROM wix_landed_sessions WHERE segment = 'device_type=MOBILE'"
    await mark_recordings(credentials, warehouse, RECORDED, query=query)
    with duckdb.connect(str(database), read_only=True) as connection:
        landed = {one for (one,) in connection.execute(query).fetchall()}
    assert shop.recorded == landed != set()
    shop.reset_counts()
    again = await mark_recordings(credentials, warehouse, RECORDED, query="wix_session_ids")
    assert again.done_before == len(landed)
    assert shop.count("recorded") == 0


async def test_only_the_recordings_of_the_given_file_are_deleted(
    shop, credentials, warehouse, tmp_path
):
    """DuckDB would take ids[1].parquet as a pattern, which is ids1.parquet."""
    ids = [shop.world.ids[place] for place in range(2)]
    for name, one in zip(("ids[1].parquet", "ids1.parquet"), ids, strict=True):
        duckdb.sql(f"COPY (SELECT '{one}' AS session_id) TO '{tmp_path}/{name}' (FORMAT parquet)")
    file = tmp_path / "ids[1].parquet"
    await mark_recordings(credentials, warehouse, DELETED, file, confirm=True)
    assert shop.deleted == {ids[0]}


async def test_deletion_needs_confirm(shop, credentials, warehouse, recordings):
    """Without confirm nothing is sent, and the error says what to set."""
    with pytest.raises(ValueError, match="cannot be undone and needs confirm=true"):
        await mark_recordings(credentials, warehouse, DELETED, recordings)
    assert shop.count() == 0
    await mark_recordings(credentials, warehouse, DELETED, recordings, confirm=True)
    assert shop.deleted == ids_in(recordings)


async def test_a_dry_run_counts_and_sends_nothing(
    shop, credentials, warehouse, recordings, artifacts
):
    """A dry run needs no confirm and reports how many IDs would be sent."""
    plan = await mark_recordings(credentials, warehouse, DELETED, recordings, dry_run=True)
    assert plan.to_send == 20
    assert shop.count() == 0
    assert "Dry run, 20 IDs to send." in (await artifacts(RESULT_KEY))[0].description


async def test_unknown_marks_fail_the_run_and_are_listed(
    shop, credentials, warehouse, recordings, artifacts
):
    """The table has the reason of each unknown mark; only retry_unknown sends them again."""
    shop.faults = [Fault("dropped_after", on="recorded", times=2)]
    with pytest.raises(MarkError, match=r"18 of 20 .*, 2 unknown.*Set retry_unknown"):
        await mark_recordings(credentials, warehouse, RECORDED, recordings)
    rows = json.loads((await artifacts(UNMARKED_KEY))[0].data)
    assert [row["state"] for row in rows] == ["unknown", "unknown"]
    assert all("may have taken effect" in row["reason"] for row in rows)
    with pytest.raises(MarkError, match="2 unknown since an earlier run"):
        await mark_recordings(credentials, warehouse, RECORDED, recordings)
    await mark_recordings(credentials, warehouse, RECORDED, recordings, retry_unknown=True)
    assert shop.count("recorded") == 22


async def test_an_invalid_key_fails_the_run_at_once(shop, credentials, warehouse, recordings):
    """The run stops after at most four calls, and the error has Wix's response."""
    wrong = credentials.model_copy(update={"api_key": type(credentials.api_key)("wrong-key")})
    with pytest.raises(MarkError, match=r"Wix (rejected the API key|returned 403)"):
        await mark_recordings(wrong, warehouse, RECORDED, recordings)
    assert shop.count("recorded") <= 4


async def test_invalid_sources_are_rejected_with_a_reason(shop, credentials, warehouse, tmp_path):
    """No source, two sources, a missing file, a warehouse of files: each has an error message."""
    lake = type(warehouse)(url=f"parquet:///{tmp_path}/lake")
    cases = [
        ({}, warehouse, ValueError, "Give either a file"),
        ({"file": "a.txt", "query": "t"}, warehouse, ValueError, "Give either a file"),
        ({"file": tmp_path / "none.csv"}, warehouse, IdSourceError, "can't be read"),
        ({"file": "s3://bucket/ids.csv"}, warehouse, IdSourceError, "file is a URL"),
        ({"query": "FROM read_csv('/etc/passwd')"}, warehouse, IdSourceError, "disabled by config"),
        ({"query": "wix_session_ids"}, lake, WarehouseUnsupportedError, "duckdb:// or postgres"),
    ]
    for source, target, kind, sentence in cases:
        with pytest.raises(kind, match=sentence):
            await mark_recordings(credentials, target, RECORDED, **source)
    assert shop.count() == 0

"""A Parquet warehouse reads and writes its own files, whatever its folder is called."""

from __future__ import annotations

from datetime import timedelta

import pytest

from prefect_wix.errors import WarehouseSchemaError
from prefect_wix.planning.windows import Window
from prefect_wix.warehouse.parquet import ParquetWarehouse
from prefect_wix.warehouse.stores import Folder
from tests.warehouses import MOBILE, NOON, a_listing, a_record, ids_of, land

ODD = ["a[1]b*", "it's", "session_id=evil", "a=1", "~", "s3:", "x{1,2}", "back\\slash", "a?b"]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("relative", [True, False])
async def test_a_folder_may_have_an_odd_name(tmp_path, monkeypatch, name, relative):
    """The second load compares with the IDs of the first, and with no other folder's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / name / "lake"
    decoy = ParquetWarehouse(Folder(str(tmp_path / "a1bx" / "lake")))
    warehouse = ParquetWarehouse(Folder(f"{name}/lake" if relative else str(folder)))
    for one in (decoy, warehouse):
        await one.prepare()
    await land(decoy, ids_of("wrong", 3))
    await land(warehouse, ids_of("a", 3))
    result = await land(warehouse, ids_of("a", 4), hours=1)
    assert (result.kept, result.added, result.removed) == (3, 1, 0)
    assert {one.name for one in tmp_path.iterdir()} == {"a1bx", name}
    assert len(list(folder.glob("wix_session_ids/*/*/*.parquet"))) == 1


@pytest.mark.parametrize(
    "name", [".DS_Store", "_SUCCESS", ".nfs0001", "._x.json", "copy of x.json", "x.parquet"]
)
async def test_foreign_files_in_the_folder_are_not_read(make_bench, name):
    """They are in every folder, also before the first `prepare`."""
    bench = make_bench("parquet")
    (bench.folder / "wix_session_schema").mkdir(parents=True)
    (bench.folder / "wix_session_schema" / name).write_bytes(b"\0foreign")
    warehouse = await bench.ready()
    await land(warehouse, ids_of("a", 3))
    for folder in [one for one in bench.folder.rglob("*") if one.is_dir()]:
        (folder / name).write_bytes(b"\0foreign")
    await bench.ready()
    await warehouse.claim(a_record(hours=1), adopt_since=NOON)
    await land(warehouse, ids_of("a", 4), hours=2)
    window = Window(MOBILE.day, MOBILE.day + timedelta(days=1), MOBILE.timezone)
    assert len(await warehouse.receipts(MOBILE.site_id, window)) == 1
    assert len(await warehouse.job_records(MOBILE.site_id, window)) == 3


@pytest.mark.parametrize("name", ["a[1]b*", "it's", "session_id=evil"])
@pytest.mark.parametrize("engine", ["duckdb", "parquet"])
async def test_a_large_listing_lands_whatever_the_temporary_folder_is_called(
    make_bench, tmp_path, monkeypatch, engine, name
):
    """DuckDB reads more than a batch of IDs from the spool's file, never from another folder's."""
    (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / name))
    bench, ids = make_bench(engine), ids_of("a", 10_500)
    warehouse = await bench.ready()
    with a_listing(ids) as listing:
        decoy = tmp_path / "a1bx" / listing.spool.folder.name
        decoy.mkdir(parents=True)
        (decoy / "ids.txt").write_text("wrong\n")
        await warehouse.publish(listing)
    assert sorted(await bench.ids()) == sorted(ids)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "{}", '{"version": "x"}', "\udcff"])
async def test_a_broken_version_file_is_named(make_bench, text):
    """Once it was moved away, the folder is as before."""
    bench = make_bench("parquet")
    await bench.ready()
    file = bench.folder / "wix_session_schema" / "version.json"
    content = file.read_bytes()
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(
        WarehouseSchemaError, match=r"Move it away.*wix_session_schema/version\.json"
    ):
        await bench.open().prepare()
    file.unlink()
    await bench.open().prepare()
    assert file.read_bytes() == content

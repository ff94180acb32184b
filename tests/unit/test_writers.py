"""Files contain exactly the IDs; after a failure the existing file is unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from test_spool import ODD, SRC, guids, pages

from prefect_wix.errors import MissingExtraError, OutputError
from prefect_wix.jobs import writers
from prefect_wix.jobs.writers import check_output, write_session_ids
from prefect_wix.spool.id_spool import Spool

FORMATS = [".csv", ".jsonl", ".ndjson", ".parquet"]
READERS = {
    ".csv": "read_csv($1, header = true, all_varchar = true)",
    ".jsonl": "read_json($1, columns = {'session_id': 'VARCHAR'})",
    ".ndjson": "read_json($1, columns = {'session_id': 'VARCHAR'})",
    ".parquet": "read_parquet($1)",
}


def read_back(path):
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT * FROM {READERS[path.suffix]}", [str(path)])
        assert [column[0] for column in rows.description] == ["session_id"]
        return [session_id for (session_id,) in rows.fetchall()]


@pytest.fixture
def spool():
    with Spool() as spool:
        yield spool


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "ids", [["a"], ["b", "a", "b"], ODD, guids(2500)], ids=["1", "2", "odd", "many"]
)
def test_a_written_file_reads_back_as_the_ids(spool, tmp_path, suffix, ids):
    """Quotes, commas, blanks and non-Latin text in every format, read by DuckDB."""
    for page in pages(ids):
        spool.add(page)
    path = tmp_path / f"ids{suffix}"
    write_session_ids(spool, path)
    assert read_back(path) == sorted(set(ids), key=str.encode)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_empty_listing_is_a_file_with_one_column_and_no_rows(spool, tmp_path, suffix):
    path = tmp_path / f"ids{suffix}"
    write_session_ids(spool, path)
    assert read_back(path) == []


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson"])
def test_an_empty_listing_is_an_empty_json_lines_file(spool, tmp_path, suffix):
    path = tmp_path / f"ids{suffix}"
    write_session_ids(spool, path)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_existing_file_is_replaced(spool, tmp_path, suffix):
    path = tmp_path / f"ids{suffix}"
    path.write_text("existing content, longer than the new one" * 100)
    spool.add(["a"])
    write_session_ids(spool, path)
    assert read_back(path) == ["a"]


def test_missing_parent_folders_are_created(spool, tmp_path):
    path = tmp_path / "new" / "and deeper" / "ids.csv"
    spool.add(["a"])
    write_session_ids(spool, path)
    assert path.read_text() == "session_id\na\n"


@pytest.mark.parametrize(
    "name",
    ["it's, odd;é.csv", "it's, odd;é.parquet", "$1.parquet", "a*[b]?.parquet", "x=1.parquet"],
)
def test_a_file_may_have_an_odd_name(spool, tmp_path, name):
    spool.add(["a"])
    path = tmp_path / name
    write_session_ids(spool, path)
    assert [one.name for one in tmp_path.iterdir()] == [name]
    plain = path.rename(tmp_path / f"plain{path.suffix}")
    assert read_back(plain) == ["a"]


@pytest.mark.parametrize("name", ["ids", "ids.txt", "ids.CSV", "ids.parquet.gz", ".csv", "csv"])
def test_an_unsupported_suffix_is_refused_with_the_supported_ones(tmp_path, name):
    with pytest.raises(OutputError, match=r"use \.csv, \.jsonl, \.ndjson, \.parquet"):
        check_output(tmp_path / name)


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "ids.csv").mkdir()
    with pytest.raises(OutputError, match="is a folder; name a file in it"):
        check_output(tmp_path / "ids.csv")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_path_through_a_file_is_an_output_error(spool, tmp_path, suffix):
    (tmp_path / "file").write_text("not a folder")
    spool.add(["a"])
    with pytest.raises(OutputError, match="can't be written"):
        write_session_ids(spool, tmp_path / "file" / f"ids{suffix}")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_the_longest_file_name_is_accepted(spool, tmp_path):
    spool.add(["a"])
    path = tmp_path / f"{'n' * 251}.csv"
    write_session_ids(spool, path)
    assert read_back(path) == ["a"]


def test_a_longer_file_name_is_an_output_error(spool, tmp_path):
    with pytest.raises(OutputError, match=r"can't be written \(File name too long\)"):
        write_session_ids(spool, tmp_path / f"{'n' * 252}.csv")
    assert list(tmp_path.iterdir()) == []


WRITE = """
import resource, sys
from pathlib import Path
from prefect_wix.errors import WixError
from prefect_wix.jobs.writers import write_session_ids
from prefect_wix.spool.id_spool import Spool
with Spool() as spool:
    for page in range(20):
        spool.add([f"{page:08}-{n:08}-{hash((page, n)):x}" for n in range(1000)])
    if sys.argv[2] != "0":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    try:
        write_session_ids(spool, Path(sys.argv[1]))
    except WixError as error:
        print(type(error).__name__, error)
        sys.exit(3)
"""


def write_in_process(path, limit):
    return subprocess.run(
        [sys.executable, "-c", WRITE, str(path), str(limit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": SRC, "PATH": "", "HOME": "/tmp"},
    )


@pytest.mark.parametrize("suffix", FORMATS)
def test_on_a_full_disk_the_existing_file_stays_and_no_draft_remains(tmp_path, suffix):
    path = tmp_path / f"ids{suffix}"
    path.write_text("existing content")
    done = write_in_process(path, 20_000)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith(("OutputError", "SpoolError"))
    assert path.read_text() == "existing content"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert write_in_process(path, 0).returncode == 0
    assert len(read_back(path)) == 20_000


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_device_is_an_os_error(spool, suffix):
    """Python writes lines, DuckDB writes Parquet."""
    spool.add(["a"])
    with pytest.raises(OSError, match="No space left on device"):
        writers._WRITERS[suffix](spool, Path("/dev/full"))


def test_parquet_without_duckdb_names_the_package_to_install(spool, tmp_path):
    code = f"""
import sys
sys.modules["duckdb"] = None
from pathlib import Path
from prefect_wix.jobs.writers import check_output
check_output(Path({str(tmp_path / "ids.csv")!r}))
check_output(Path({str(tmp_path / "ids.parquet")!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": SRC, "PATH": ""},
    )
    assert MissingExtraError.__name__ in done.stderr
    assert "pip install 'prefect-wix[duckdb]'" in done.stderr


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_is_replaced_by_a_rename(spool, tmp_path, suffix):
    """A reader sees the old file or the new one, never a draft."""
    path = tmp_path / f"ids{suffix}"
    write_session_ids(spool, path)
    before = path.stat().st_ino
    spool.add(["a"])
    write_session_ids(spool, path)
    assert path.stat().st_ino != before, "renamed, not overwritten"

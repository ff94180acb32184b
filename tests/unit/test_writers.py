"""Files contain exactly the IDs; after a failure the existing file is unchanged."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import duckdb
import pytest
from test_spool import ODD, guids, pages

from prefect_wix.errors import OutputError, SpoolError
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


def test_a_longer_file_name_is_an_output_error(tmp_path):
    """Already the check before the job finds it."""
    with pytest.raises(OutputError, match=r"can't be written \(File name too long\)"):
        check_output(tmp_path / f"{'n' * 252}.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("s3://bucket/ids.csv", r"output is a URL.*load-sessions writes to S3"),
        ("gs://bucket/ids.parquet", "output is a URL"),
        ("https://user:SECRET@example.com/ids.csv", "output is a URL"),
        ("file:///tmp/ids.csv", "output is a URL"),
        ("~no-such-user/ids.csv", "output begins with ~"),
        ("a\0b.csv", "output has a character"),
        ("\ud800.csv", "output has a character"),
        ("", "is a folder"),
    ],
)
def test_a_path_that_names_no_file_is_refused(tmp_path, monkeypatch, path, sentence):
    """Nothing is created, and a password in a URL is not quoted."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=sentence) as caught:
        check_output(Path(path))
    assert "SECRET" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_tilde_is_the_home_folder(spool, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    path = check_output(Path("~/ids.csv"))
    assert path == tmp_path / "home" / "ids.csv"
    write_session_ids(spool, Path("~/ids.csv"))
    assert read_back(path) == []
    assert [one.name for one in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("name", ["~x.csv", "http:x.csv", "a:b/c.csv", "x~/y.csv"])
def test_a_name_that_only_resembles_a_home_folder_or_a_url_is_a_file(
    spool, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    write_session_ids(spool, Path(name))
    assert read_back(tmp_path / name) == []


def odd_target(folder, kind):
    path = folder / f"{kind}.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        (folder / "target.csv").write_text("existing content")
        targets = {"device": "/dev/null", "loop": path, "folder": folder, "file": "target.csv"}
        path.symlink_to(targets.get(kind, "nowhere.csv"))
    return path


@pytest.mark.parametrize(
    "kind", ["pipe", "socket", "device", "loop", "folder", "file", "broken link"]
)
def test_only_a_regular_file_is_replaced(spool, tmp_path, kind):
    """A link stays too: followed, it would let other users of /tmp choose the file."""
    path = odd_target(tmp_path, kind)
    before = path.lstat(), sorted(one.name for one in tmp_path.iterdir())
    for use in (check_output, lambda path: write_session_ids(spool, path)):
        with pytest.raises(OutputError, match="is a link, a pipe or a device"):
            use(path)
    assert (path.lstat(), sorted(one.name for one in tmp_path.iterdir())) == before
    assert not (tmp_path / "nowhere.csv").exists()
    if kind == "file":
        assert path.read_text() == "existing content"


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_folder_may_be_a_link(spool, tmp_path, suffix):
    """The parent of a linked folder is the parent of its target."""
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "deep")
    write_session_ids(spool, tmp_path / "link" / ".." / f"ids{suffix}")
    write_session_ids(spool, tmp_path / "link" / f"ids{suffix}")
    assert (tmp_path / "far" / f"ids{suffix}").is_file()
    assert (tmp_path / "far" / "deep" / f"ids{suffix}").is_file()
    assert not (tmp_path / f"ids{suffix}").exists()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_a_replaced_file_keeps_its_mode_and_owner(spool, tmp_path, suffix, mode):
    path = tmp_path / f"ids{suffix}"
    path.write_text("old")
    owner = (65534, 65534) if os.getuid() == 0 else (os.getuid(), os.getgid())
    os.chown(path, *owner)
    path.chmod(mode)
    write_session_ids(spool, path)
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)) == (mode, owner)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_a_new_file_follows_the_umask(spool, tmp_path, suffix, umask, mode):
    before = os.umask(umask)
    try:
        write_session_ids(spool, tmp_path / f"ids{suffix}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / f"ids{suffix}").stat().st_mode) == mode


@pytest.mark.parametrize("suffix", FORMATS)
def test_nobody_else_can_open_or_plant_a_draft(tmp_path, suffix, monkeypatch):
    """A draft is in a new folder of this user, so it follows no link and nobody reads it."""
    seen = []

    def look(spool, draft):
        seen.append((stat.S_IMODE(draft.parent.stat().st_mode), draft.exists(), draft.parent))
        draft.write_text("")

    monkeypatch.setattr(writers, "_WRITERS", {suffix: look})
    with Spool() as spool:
        write_session_ids(spool, tmp_path / f"ids{suffix}")
    [(mode, exists, folder)] = seen
    assert (mode, exists, folder.parent) == (0o700, False, tmp_path)


ODD_FOLDERS = [
    "a[1]b*",
    "it's",
    "session_id=evil",
    "a=1",
    "~",
    "s3:",
    "x{1,2}",
    "q?",
    "back\\slash",
]


@pytest.mark.parametrize("name", ODD_FOLDERS)
@pytest.mark.parametrize("folder_of", ["spool", "output"])
def test_a_parquet_file_has_the_ids_whatever_the_folders_are_called(
    tmp_path, monkeypatch, name, folder_of
):
    """DuckDB takes the path of the spool as a pattern, and `session_id=evil` as a column."""
    folder, decoy = tmp_path / name, tmp_path / "a1bx"
    for one in (folder, decoy):
        one.mkdir()
    if folder_of == "spool":
        monkeypatch.setattr("tempfile.tempdir", str(folder))
    with Spool() as spool:
        spool.add(["a", "b"])
        (decoy / spool.folder.name).mkdir()
        (decoy / spool.folder.name / "ids.txt").write_text("wrong\n")
        path = (folder if folder_of == "output" else tmp_path) / "ids.parquet"
        write_session_ids(spool, path)
    plain = path.rename(tmp_path / "plain.parquet")
    assert read_back(plain) == ["a", "b"]


def test_a_temporary_folder_that_duckdb_cannot_name_is_an_error(spool, tmp_path, monkeypatch):
    folder = tmp_path / "back\\slash[1]"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(SpoolError, match="set TMPDIR"):
        write_session_ids(spool, tmp_path / "ids.parquet")
    assert [one.name for one in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_device_is_an_os_error(spool, suffix):
    """Python writes lines, DuckDB writes Parquet."""
    spool.add(["a"])
    with pytest.raises(OSError, match="No space left on device"):
        writers._WRITERS[suffix](spool, Path("/dev/full"))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_is_replaced_by_a_rename(spool, tmp_path, suffix):
    """A reader sees the old file or the new one, never a draft."""
    path = tmp_path / f"ids{suffix}"
    write_session_ids(spool, path)
    before = path.stat().st_ino
    spool.add(["a"])
    write_session_ids(spool, path)
    assert path.stat().st_ino != before, "renamed, not overwritten"

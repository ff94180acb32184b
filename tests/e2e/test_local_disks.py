"""Processes whose local disk is full, limited or not theirs: the spool, and files of IDs."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.processes import ROOT

SRC = str(ROOT / "src")


def test_the_process_grows_by_the_cache_and_not_by_the_ids():
    """100 MB of IDs grow the process, SQLite included, by less than 60 MB."""
    code = """
import resource
from prefect_wix.spool.id_spool import Spool

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

with Spool() as spool:
    spool.add(["warm"])
    before = peak()
    for page in range(100):
        spool.add([f"{hash((page, n)):x}{page}-{n}{'x' * 970}" for n in range(1000)])
    assert len(spool) == 100_001
    print(peak() - before)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 60


def run_python(code, *, preexec_fn=None, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": SRC, "PATH": "", **environment},
        preexec_fn=preexec_fn,
    )


def limit_file_size(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


FILL = """
import sys
from prefect_wix.errors import SpoolError
from prefect_wix.spool.id_spool import Spool
try:
    with Spool() as spool:
        for page in range(600):
            spool.add([f"{page:08}-{n:08}-{'x' * 100}" for n in range(1000)])
        spool.digest()
except SpoolError as error:
    print(error)
    sys.exit(3)
"""


def test_a_full_disk_is_a_spool_error_that_names_tmpdir():
    done = run_python(FILL, preexec_fn=limit_file_size(4 * 2**20))
    assert done.returncode == 3, done.stderr
    assert "could not be written to local disk" in done.stdout
    assert "set TMPDIR to a larger disk" in done.stdout


def test_a_disk_without_any_space_is_a_spool_error():
    done = run_python(FILL, preexec_fn=limit_file_size(0))
    assert done.returncode == 3, done.stderr


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_ids_beyond_the_cache_are_in_an_unlinked_file_in_tmpdir(tmp_path):
    """The file disappears with the process."""
    list_files = "print(*(one.resolve() for one in Path('/proc/self/fd').iterdir()))"
    code = "from pathlib import Path\n" + FILL.replace("spool.digest()", list_files)
    done = run_python(code, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_write_permission_is_refused_before_the_job(tmp_path):
    code = f"""
import os
from pathlib import Path
from prefect_wix.jobs.writers import check_output
if os.getuid() == 0:
    os.setuid(65534)
check_output(Path({str(tmp_path)!r}) / "new" / "ids.csv")
"""
    tmp_path.chmod(0o555)
    done = run_python(code)
    assert "can't be written (Permission denied)" in done.stderr


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


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_on_a_full_disk_the_existing_file_stays_and_no_draft_remains(tmp_path, suffix):
    path = tmp_path / f"ids{suffix}"
    path.write_text("existing content")
    done = write_in_process(path, 20_000)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith(("OutputError", "SpoolError"))
    assert path.read_text() == "existing content"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert write_in_process(path, 0).returncode == 0
    rows = duckdb.sql(f"SELECT count(DISTINCT session_id) FROM '{path}'")
    assert rows.fetchall() == [(20_000,)]

"""Temporary folders of killed processes are removed, and those of live processes are not."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import prefect_wix.spool.temporary
from prefect_wix.spool.temporary import temporary_folder

SRC = str(Path(prefect_wix.spool.temporary.__file__).parents[2])
USE = """
import sys
from prefect_wix.spool.temporary import temporary_folder
with temporary_folder() as folder:
    (folder / "ids.txt").write_text("id")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The temporary folder of this machine."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def using_a_folder(root):
    """A process and its temporary folder; the process ends when its input is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", USE],
        env={"TMPDIR": str(root), "PYTHONPATH": SRC},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process, Path(process.stdout.readline().strip())


def test_the_folder_of_a_killed_process_is_removed_by_the_next_one(root):
    """Also by a process whose first folder is made while another one is alive."""
    with using_a_folder(root) as (killed, left), using_a_folder(root) as (_, alive):
        killed.kill()
        killed.wait()
        assert (left / "ids.txt").exists()
        with temporary_folder() as mine:
            assert not left.exists()
            assert (alive / "ids.txt").exists()
            assert mine.stat().st_mode & 0o777 == 0o700
    assert list(root.iterdir()) == []


def test_folders_without_a_lock_are_not_ours(root):
    """An earlier version made such folders, and its processes may be alive."""
    others = [root / "prefect-wix-run-other", root / "prefect-wix-a1b2c3d4", root / "x.lock"]
    for other in others:
        other.mkdir()
    with temporary_folder():
        pass
    assert sorted(root.iterdir()) == sorted(others)


def test_another_thread_can_close_a_folder(root):
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        folder = threads.submit(stack.enter_context, temporary_folder()).result()
        assert folder.is_dir()
    assert list(root.iterdir()) == []


def test_a_folder_is_removed_after_an_error(root):
    with pytest.raises(RuntimeError), temporary_folder():
        raise RuntimeError
    assert list(root.iterdir()) == []

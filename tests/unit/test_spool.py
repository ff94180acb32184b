"""The spool stores each ID once, in little memory, and computes a fingerprint of the set."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import tempfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import get_ident
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prefect_wix.spool.id_spool
from prefect_wix.errors import SpoolError
from prefect_wix.spool.id_spool import Spool

MANY = 200_000
SRC = str(Path(prefect_wix.__file__).parent.parent)
ODD = [
    "a",
    "A",
    "é",
    "e\u0301",
    "😀",
    "'",
    '"',
    ",",
    ";",
    "\\",
    "a b",
    " a",
    "0",
    "00",
    "1e5",
    "null",
    "{}",
    "%",
    "ü",
]


def guids(number, seed=1):
    rng = random.Random(seed)
    return [str(UUID(int=rng.getrandbits(128))) for _ in range(number)]


def pages(ids, size=1000):
    return [ids[at : at + size] for at in range(0, len(ids), size)]


def all_ids(spool):
    return [session_id for batch in spool.batches() for session_id in batch]


def test_each_id_is_stored_once_and_in_order():
    with Spool() as spool:
        assert spool.add(["b", "a", "b"]).unseen == ["b", "a"]
        added = spool.add(["a", "c"])
        assert (added.unseen, added.fresh) == (["c"], 1)
        assert (all_ids(spool), len(spool)) == (["a", "b", "c"], 3)


def test_an_empty_spool_has_no_ids_and_the_empty_digest():
    with Spool() as spool:
        assert (spool.add([]).unseen, all_ids(spool), len(spool)) == ([], [], 0)
        assert spool.digest() == hashlib.blake2b(digest_size=16).hexdigest()


def test_ids_new_in_a_pass_are_counted_apart_from_ids_new_in_the_spool():
    with Spool() as spool:
        spool.add(["a", "b"], in_pass=1)
        added = spool.add(["b", "c", "c"], in_pass=2)
        assert (added.unseen, added.fresh) == (["c"], 2)
        added = spool.add(["b", "c", "a"], in_pass=2)
        assert (added.unseen, added.fresh) == ([], 1)
        assert len(spool) == 3


def test_odd_ids_are_returned_unchanged():
    with Spool() as spool:
        spool.add(ODD)
        assert sorted(all_ids(spool)) == sorted(ODD)


text = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=6)


@given(some_pages=st.lists(st.lists(text, max_size=8), max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_spool_is_a_set(some_pages):
    """For any pages it has the IDs of a set, in UTF-8 order."""
    model = set()
    with Spool() as spool:
        ids_of_pass = set()
        for number, page in enumerate(some_pages):
            ids_of_pass = ids_of_pass if number % 2 else set()
            added = spool.add(page, in_pass=1 + number // 2)
            assert set(added.unseen) == set(page) - model
            assert added.fresh == len(set(page) - ids_of_pass)
            model |= set(page)
            ids_of_pass |= set(page)
            assert len(spool) == len(model)
        assert all_ids(spool) == sorted(model, key=str.encode)


@given(ids=st.sets(text, max_size=20), shuffler=st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_digest_depends_on_the_set_alone(ids, shuffler):
    """Order, pages, duplicates and passes do not matter; one more ID changes it."""
    order = sorted(ids)
    with Spool() as one, Spool() as other:
        one.add(order)
        shuffler.shuffle(order)
        for number, page in enumerate(pages(order * 2, 3), start=1):
            other.add(page, in_pass=number)
        assert one.digest() == other.digest()
        other.add(["one more"])
        assert one.digest() != other.digest()


def test_the_digest_format_is_stable():
    """Receipts store it, so the same IDs must always give the same digest."""
    with Spool() as spool:
        spool.add(["b", "a", "é"])
        lines = "".join(f"{one}\n" for one in ["a", "b", "é"])
        assert spool.digest() == hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()
        assert spool.digest() == "eeba64b94e3556e51022a4972d1d0e57"


@pytest.mark.parametrize(("one", "other"), [(["ab"], ["a", "b"]), (["a"], ["a "]), ([], ["a"])])
def test_different_sets_have_different_digests(one, other):
    with Spool() as first, Spool() as second:
        first.add(one)
        second.add(other)
        assert first.digest() != second.digest()


def test_python_memory_does_not_grow_with_the_number_of_ids():
    """200,000 IDs need less than 8 MiB in Python; SQLite has its own limit."""
    ids = guids(MANY)
    all_pages = pages(ids)
    gc.collect()
    tracemalloc.start()
    try:
        with Spool() as spool:
            for page in all_pages:
                spool.add(page)
            spool.digest()
            assert sum(map(len, spool.batches())) == MANY == len(spool)
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_temporary_folder_that_cannot_be_created_is_a_spool_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with Spool() as spool, pytest.raises(SpoolError, match="set TMPDIR"):
        spool.folder  # noqa: B018


def test_leaving_the_spool_removes_its_files():
    with Spool() as spool:
        spool.add(["a"])
        spool.lines()
        assert spool.folder.is_dir()
    assert not spool.folder.exists()
    spool.close()


def test_only_the_owner_can_read_the_folder_and_its_files():
    with Spool() as spool:
        assert spool.folder.stat().st_mode & 0o777 == 0o700
        assert spool.lines().stat().st_mode & 0o777 == 0o600


def test_two_spools_are_separate():
    with Spool() as one, Spool() as other:
        one.add(["a"])
        assert (len(other), all_ids(other)) == (0, [])
        assert one.folder != other.folder


def test_a_batch_has_the_requested_size():
    with Spool() as spool:
        spool.add([f"{n:05}" for n in range(2500)])
        assert [len(batch) for batch in spool.batches(1000)] == [1000, 1000, 500]


def test_lines_are_the_ids_in_order():
    with Spool() as spool:
        assert spool.lines().read_bytes() == b""
        spool.add(ODD)
        content = spool.lines().read_bytes()
    assert content == "".join(f"{one}\n" for one in sorted(ODD, key=str.encode)).encode()


def test_lines_are_rewritten_after_an_add():
    with Spool() as spool:
        spool.add(["b"])
        assert spool.lines().read_text() == "b\n"
        spool.add(["a"])
        assert spool.lines().read_text() == "a\nb\n"


@pytest.mark.parametrize("count", [9_999, 10_000, 10_001])
def test_the_digest_is_the_same_with_and_without_a_file(count):
    """More than a batch of IDs is hashed from a file."""
    ids = guids(count)
    with Spool() as spool:
        for page in pages(ids):
            spool.add(page)
        text = "".join(f"{one}\n" for one in sorted(ids))
        assert spool.digest() == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def test_a_closed_spool_raises():
    with Spool() as spool:
        pass
    with pytest.raises(SpoolError):
        spool.add(["a"])
    with pytest.raises(SpoolError):
        list(spool.batches())


async def test_work_on_more_than_1000_ids_runs_in_a_thread():
    with Spool() as spool:
        for count, in_this_thread in ((1000, True), (1001, False)):
            spool.add([str(n) for n in range(count)])
            assert (await spool.run(get_ident) == get_ident()) is in_this_thread


async def test_the_ids_to_add_count_for_the_thread_limit():
    with Spool() as spool:
        spool.add(["a"])
        assert await spool.run(get_ident, adding=999) == get_ident()
        assert await spool.run(get_ident, adding=1000) != get_ident()


def test_the_folder_of_a_killed_run_is_removed_six_hours_later(tmp_path, monkeypatch):
    """A newer one may belong to a run of another process, and another name to another program."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = ("prefect-wix-run-x", "prefect-wix-run-y", "other-run-z")
    left, running, other = (tmp_path / name for name in names)
    for folder, hours in ((left, 7), (running, 5), (other, 7)):
        folder.mkdir()
        (folder / "ids.txt").write_text("id")
        os.utime(folder, 2 * (time.time() - 3600 * hours,))
    with Spool() as spool:
        assert spool.folder.stat().st_mode & 0o777 == 0o700
        assert {*tmp_path.iterdir()} == {running, other, spool.folder}
    assert {*tmp_path.iterdir()} == {running, other}


def test_a_spool_is_not_closed_while_a_thread_executes():
    """SQLite would crash the process."""
    spool = Spool()
    spool.add(["a"])
    with ThreadPoolExecutor(1) as threads:
        with spool._executing:
            closing = threads.submit(spool.close)
            with pytest.raises(TimeoutError):
                closing.result(timeout=0.2)
        closing.result(timeout=5)
    with pytest.raises(SpoolError):
        spool.add(["b"])

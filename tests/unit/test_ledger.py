"""A ledger that runs ahead of its table is the one that is kept in the table verb by verb."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_wix.errors import WarehouseAccessError, WarehouseError, WarehouseSchemaError
from prefect_wix.partitions import Ask, AskState
from prefect_wix.spool import Spool
from prefect_wix.warehouse import batches, leases, open_warehouse
from prefect_wix.warehouse.database import Database
from prefect_wix.warehouse.interface import Answer
from prefect_wix.warehouse.journal import Journal
from prefect_wix.warehouse.leases import kept_open
from prefect_wix.warehouse.staging import stage
from prefect_wix.warehouse.steps import Statement, Tables
from prefect_wix.windows import Window
from tests.warehouses import MOBILE, NOON, ROOT, a_job, an_ask, land, on_day

TABLES = Tables("main", arrays=True)
WEEK = Window(on_day(1).day, on_day(8).day, MOBILE.timezone)
ADOPT_SINCE = NOON + timedelta(hours=2)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "asks"


# -- the journal ---------------------------------------------------------------------------------


def test_the_last_entry_of_each_ask_is_read_with_all_that_is_in_it(path):
    one, other = an_ask(hours=1), replace(an_ask(), reason='a "reason"\r\n\N{SNOWMAN}\x00')
    ended = replace(
        one.watched(1.5, 2.25).ended(AskState.LANDED, at=NOON), sessions=3_000_000_000, added=0
    )
    journal = Journal(path)
    journal.write([one, other])
    journal.write([ended])
    assert Journal(path).read() == {one.ask_id: ended, other.ask_id: other}


def test_a_write_that_a_crash_cut_short_is_none(path):
    """Wherever it was cut, and whatever the disk has in its place."""
    one, other = an_ask(), an_ask()
    Journal(path).write([one])
    whole = path.read_bytes()
    Journal(path).write([other])
    both = path.read_bytes()
    for kept in (len(whole), len(whole) + 1, len(both) - 2):
        for garbage in (b"", b"\x00" * 20, b"\x00\n" + whole):
            path.write_bytes(both[:kept] + garbage)
            assert Journal(path).read() == {one.ask_id: one}


def test_a_journal_with_nothing_in_it_is_no_file(path):
    journal = Journal(path)
    assert journal.read() == {}
    journal.clear()
    journal.write([an_ask()])
    assert path.exists()
    journal.clear()
    assert not path.exists()
    journal.write([an_ask()])
    assert len(journal.read()) == 1


# -- the ledger ----------------------------------------------------------------------------------


class InTheTable:
    """The ledger by SQL alone."""

    def __init__(self, _):
        self.connection = duckdb.connect()
        self.database = Database(self.connection, lambda _: Journal(Path("never-there")))
        self.database.run(TABLES.prepare())

    def claim(self, ask):
        return self.database.run(TABLES.claim(ask, ADOPT_SINCE))

    def record(self, ask):
        self.database.run(TABLES.record(ask))

    def land(self, answer):
        steps = TABLES.publish(answer, NOON)
        return self.database.run(steps, lambda cursor: stage(cursor, answer.spool))

    def content(self):
        return sorted(map(repr, self.connection.execute("FROM wix_session_asks").fetchall()))

    def look(self):
        """Read it."""

    def die(self):
        """End without a word."""


class Ahead(InTheTable):
    """The ledger in memory and in its journal."""

    def __init__(self, folder):
        super().__init__(folder)
        self.path = Path(folder) / "asks"
        self.database = self._opened()

    def _opened(self):
        journal = Journal(self.path)
        return Database(self.connection, lambda _: journal)

    def claim(self, ask):
        return self.database.note(TABLES, lambda ledger: ledger.claim(ask, ADOPT_SINCE))

    def record(self, ask):
        self.database.note(TABLES, lambda ledger: ledger.record(ask))

    def land(self, answer):
        [landed] = self.database.land_first(TABLES, [answer], NOON)
        if landed:
            return landed
        steps = TABLES.publish(answer, NOON)
        return self.database.transact(TABLES, steps, lambda cursor: stage(cursor, answer.spool))

    def look(self):
        self.database.transact(TABLES, TABLES.open_asks())

    def die(self):
        self.database = self._opened()

    def content(self):
        self.look()
        return super().content()


days = st.integers(1, 3)
hours = st.integers(0, 5)
verbs = st.sampled_from(["claim", "claim", "submitted", "failed", "land", "look", "die"])


@given(drawn=st.lists(st.tuples(verbs, days, hours), min_size=1, max_size=14))
@settings(max_examples=60, deadline=None)
def test_it_is_the_ledger_that_is_kept_in_the_table(drawn):
    """Also where the process dies at any moment, and another one goes on."""
    with TemporaryDirectory() as folder:
        ledgers = InTheTable(folder), Ahead(folder)
        last = {}
        for number, (verb, day, at) in enumerate(drawn):
            when = NOON + timedelta(hours=at, seconds=number)
            intent = replace(Ask.intend(on_day(day), at=when, run_id=None), ask_id=f"ask-{number}")
            ask = last.get(day, intent)
            if verb == "claim":
                one, other = (ledger.claim(intent) for ledger in ledgers)
                assert one == other
                last[day] = one.ask
            elif verb == "submitted" and ask.state is AskState.INTENDED:
                job = a_job(on_day(day), hours=at, job_id=f"job-{number}")
                last[day] = ask.submitted(job)
                _both(ledgers, "record", last[day])
            elif verb == "failed":
                _both(ledgers, "record", last.pop(day, intent).ended(AskState.FAILED, at=when))
            elif verb == "land" and ask.state is AskState.SUBMITTED:
                del last[day]
                with Spool() as spool:
                    spool.add([f"id-{number}"])
                    _both(ledgers, "land", Answer(ask, spool, spool.digest(), repeats=0))
            elif verb in {"look", "die"}:
                _both(ledgers, verb)
        assert ledgers[0].content() == ledgers[1].content()
        for ledger in ledgers:
            ledger.database.close()


def _both(ledgers, verb, *args):
    one, other = (getattr(ledger, verb)(*args) for ledger in ledgers)
    assert one == other


@pytest.fixture(params=[InTheTable, Ahead])
def ledger(request, tmp_path):
    ledger = request.param(tmp_path)
    yield ledger
    ledger.database.close()


def claimed(ledger, *, number=1, hours=0):
    """An intent of its own for a day."""
    at = NOON + timedelta(hours=hours)
    ask = replace(Ask.intend(MOBILE, at=at, run_id=None), ask_id=f"ask-{number}")
    return ledger.claim(ask).ask


def landed(ledger, ask):
    with Spool() as spool:
        spool.add(["a"])
        return ledger.land(Answer(ask, spool, spool.digest(), repeats=0))


def states(ledger):
    ledger.look()
    rows = ledger.connection.execute("SELECT state FROM wix_session_asks ORDER BY ask_id")
    return [state for (state,) in rows.fetchall()]


def test_a_claim_that_is_repeated_takes_its_own_intent_for_no_orphan(ledger):
    """A commit may have taken effect though it was said to have failed."""
    ask = Ask.intend(MOBILE, at=NOON, run_id=None)
    for _ in range(2):
        assert ledger.claim(ask).orphans == 0
        assert states(ledger) == ["intended"]


def test_what_has_landed_stays_so_when_its_process_dies(ledger):
    """Its journal has an older state of it."""
    ask = claimed(ledger).submitted(a_job(hours=3))
    ledger.record(ask)
    assert landed(ledger, ask).state is AskState.LANDED
    ledger.die()
    assert states(ledger) == ["landed"]


def test_a_job_that_has_landed_is_not_adopted(ledger):
    ask = claimed(ledger).submitted(a_job(hours=3))
    ledger.record(ask)
    landed(ledger, ask)
    assert claimed(ledger, number=2).state is AskState.INTENDED


def test_what_has_landed_and_is_recorded_once_more_is_one_entry(ledger):
    """Two loads may wait for one job, and one of them give up on it."""
    ask = claimed(ledger).submitted(a_job())
    ledger.record(ask)
    landed(ledger, ask)
    ledger.record(ask.ended(AskState.FAILED, at=NOON))
    assert len(states(ledger)) == 1


def test_a_job_whose_intent_was_taken_for_an_orphan_is_known_all_the_same(ledger):
    """Its submit was under way while another load claimed its day. Then this process dies."""
    ask = claimed(ledger)
    ledger.look()
    claimed(ledger, number=2)
    ledger.look()
    ledger.record(ask.submitted(a_job(hours=3)))
    ledger.die()
    assert states(ledger) == ["submitted", "intended"]


def test_what_a_lost_commit_has_landed_stays_so(path, monkeypatch):
    """It was said to have failed, and took effect."""
    ledger = Ahead(path.parent)
    ask = claimed(ledger).submitted(a_job())
    ledger.record(ask)
    run = Database.run

    def lost(database, steps, *stage):
        run(database, steps, *stage)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Database, "run", lost)
        with pytest.raises(ZeroDivisionError):
            landed(ledger, ask)
    assert states(ledger) == ["landed"]
    ledger.database.close()


def test_a_write_that_was_cut_short_is_gone_before_the_next(path):
    """Else what follows would be glued to it, and never be read."""
    path.write_bytes(b'{"ask_id": "as')
    ledger = Ahead(path.parent)
    ask = claimed(ledger)
    ledger.die()
    assert states(ledger) == ["intended"]
    assert ask.ask_id == "ask-1"
    ledger.database.close()


def test_a_ledger_that_another_thread_has_closed_is_opened_anew(path):
    """Its own line could not be written, just as this one began."""
    ledger = Ahead(path.parent)
    ask, closed = an_ask(), []

    def note(opened):
        if not closed:
            closed.append(opened.close())
        opened.record(ask)

    ledger.database.note(TABLES, note)
    assert states(ledger) == ["submitted"]
    ledger.database.close()


def test_an_entry_of_another_version_is_refused_and_not_dropped(path):
    Journal(path).write([an_ask()])
    path.write_bytes(path.read_bytes().replace(b"submitted", b"dreamt of"))
    ledger = Ahead(path.parent)
    with pytest.raises(WarehouseSchemaError, match="this version"):
        claimed(ledger)
    assert path.exists()
    ledger.database.close()


def test_an_entry_that_is_no_text_is_refused(path):
    with pytest.raises(WarehouseError, match="can't be written"):
        Journal(path).write([replace(an_ask(), reason="\ud800")])
    assert not path.exists()


def test_most_asks_reach_the_table_once(path):
    """When they have ended, with what they brought. To look for an entry there takes long."""
    ledger = Ahead(path.parent)
    ask = Ask.intend(MOBILE, at=NOON, run_id=None)
    ledger.claim(ask)
    submitted = ask.submitted(a_job())
    ledger.record(submitted)
    executed = []
    execute = ledger.database._execute
    ledger.database._execute = lambda cursor, one: executed.append(one.sql) or execute(cursor, one)
    with Spool() as spool:
        ledger.land(Answer(submitted, spool, spool.digest(), repeats=0))
    assert [sql.split()[0] for sql in executed] == ["SELECT", "INSERT", "INSERT", "INSERT"]
    ledger.database.close()


# -- in a warehouse ------------------------------------------------------------------------------


@pytest.fixture
def bench(make_bench):
    return make_bench("duckdb")


@pytest.fixture
async def warehouse(bench):
    return await bench.ready()


@pytest.fixture
def journal(bench):
    return bench.file.with_name("sessions.duckdb.wix.asks")


def states_of(bench):
    return bench.sql("SELECT state FROM wix.wix_session_asks ORDER BY session_date")


KILLED = """
import asyncio, os, sys
from prefect_wix.warehouse import open_warehouse
from prefect_wix.warehouse.leases import kept_open
from prefect_wix.windows import Window
from tests.warehouses import MOBILE, NOON, a_job, on_day
from prefect_wix.partitions import Ask

async def main():
    warehouse = open_warehouse(sys.argv[1], schema='wix')
    await warehouse.prepare()
    async with kept_open(warehouse):
        for day in (1, 2):
            ask = Ask.intend(on_day(day), at=NOON, run_id=None)
            await warehouse.claim(ask, adopt_since=NOON)
            if day == 1:
                await warehouse.record(ask.submitted(a_job(on_day(day), job_id="job-1")))
        os._exit(9)

asyncio.run(main())
"""


async def test_what_a_killed_process_has_noted_is_there_for_the_next(bench, warehouse, journal):
    """Its journal lies beside the file, and the first who opens that takes it in."""
    command = [sys.executable, "-c", KILLED, bench.url]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    assert await process.wait() == 9
    assert journal.exists()
    intent = Ask.intend(on_day(1), at=NOON, run_id=None)
    adopted = await warehouse.claim(intent, adopt_since=NOON - timedelta(hours=1))
    assert (adopted.ask.job_id, adopted.adopted) == ("job-1", True)
    intent = Ask.intend(on_day(2), at=NOON, run_id=None)
    assert (await warehouse.claim(intent, adopt_since=NOON)).orphans == 1
    assert not journal.exists()
    assert await states_of(bench) == [("submitted",), ("orphaned",), ("intended",)]


async def test_whoever_reads_the_table_finds_what_is_noted(bench, warehouse, journal, never_idle):
    """By a verb while the file is held, by any program when it is not."""
    intent = Ask.intend(MOBILE, at=NOON, run_id=None)
    async with kept_open(warehouse):
        await warehouse.claim(intent, adopt_since=NOON)
        assert journal.exists()
        assert await states_of(bench) == []
        assert await warehouse.history(MOBILE.site_id, MOBILE.window) == [intent]
        await warehouse.record(intent.submitted(a_job()))
    assert await states_of(bench) == [("submitted",)]
    assert not journal.exists()


async def test_one_schema_does_not_take_in_what_another_has_noted(bench, warehouse, never_idle):
    other = type(bench)(bench.file.parent)
    other.schema = "another"
    async with kept_open(warehouse):
        of_both = [warehouse, await other.ready()]
        for one in of_both:
            await one.claim(Ask.intend(MOBILE, at=NOON, run_id=None), adopt_since=NOON)
        for one in of_both:
            assert len(await one.history(MOBILE.site_id, MOBILE.window)) == 1


async def test_a_journal_that_can_not_be_written_is_an_error(
    warehouse, journal, never_idle, monkeypatch
):
    """And no claim: a submit would leave a job that nobody knows. The next verb is well again."""
    intents = [Ask.intend(on_day(day), at=NOON, run_id=None) for day in (1, 2, 3)]
    write = os.write

    def half(file, data):
        return write(file, data[: len(data) // 2] if b"ask_id" in data else data)

    async with kept_open(warehouse):
        await warehouse.claim(intents[0], adopt_since=NOON)
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(WarehouseAccessError, match="No space left"):
            await warehouse.claim(intents[1], adopt_since=NOON)
        monkeypatch.undo()
        await warehouse.claim(intents[2], adopt_since=NOON)
        assert [*Journal(journal).read().values()] == [intents[2]]
    assert await warehouse.history(MOBILE.site_id, WEEK) == [intents[0], intents[2]]


async def test_a_transaction_that_fails_takes_no_entry_along(warehouse, never_idle):
    """What was noted before it is still known, to this process and to the file."""

    def broken(_):
        raise WarehouseAccessError("no luck")
        yield

    ask = an_ask()
    async with kept_open(warehouse):
        await warehouse.record(ask)
        with pytest.raises(WarehouseAccessError, match="no luck"):
            await warehouse.transact(broken)
        assert await warehouse.history(MOBILE.site_id, MOBILE.window) == [ask]
        landed = await land(warehouse, ["a"], ask=ask)
        [ended] = await warehouse.history(MOBILE.site_id, MOBILE.window)
    assert (landed.state, ended.state) == (AskState.LANDED, AskState.LANDED)


class Held:
    """A transaction that has begun and stays under way until it is let go."""

    def __init__(self):
        self._has_begun, self._may_end = threading.Event(), threading.Event()

    def __call__(self, *_):
        """In the thread of the transaction."""
        self._has_begun.set()
        assert self._may_end.wait(30)
        return ()

    async def begun(self):
        """Return when it is under way."""
        assert await asyncio.to_thread(self._has_begun.wait, 30)

    def let_go(self):
        self._may_end.set()


@pytest.fixture
def held_landing(monkeypatch):
    """The next landing; what it did is undone where it `fails`."""
    held = Held()
    held.fails = False

    def land_first(tables, answers, at, new):
        landed = yield from batches.land_first(tables, answers, at, new)
        held()
        if held.fails:
            raise WarehouseError("no luck")
        return landed

    monkeypatch.setattr("prefect_wix.warehouse.database.land_first", land_first)
    return held


def states_by_day(asks):
    return {ask.partition.day.day: str(ask.state) for ask in asks}


@pytest.mark.parametrize(("fails", "state"), [(False, "landed"), (True, "submitted")])
async def test_nobody_waits_for_a_landing_to_note_something(
    warehouse, never_idle, held_landing, fails, state
):
    """And what is noted meanwhile is not lost, whatever becomes of the landing."""
    held_landing.fails = fails
    mine, other = an_ask(on_day(1)), Ask.intend(on_day(2), at=NOON, run_id=None)
    async with kept_open(warehouse):
        await warehouse.record(mine)
        landing = asyncio.create_task(land(warehouse, ["a"], ask=mine))
        await held_landing.begun()
        await warehouse.claim(other, adopt_since=NOON)
        await warehouse.record(other.submitted(a_job(on_day(2))))
        assert not landing.done()
        held_landing.let_go()
        await asyncio.wait([landing])
        assert (landing.exception() is not None) == fails
    known = await warehouse.history(MOBILE.site_id, WEEK)
    assert states_by_day(known) == {1: state, 2: "submitted"}


async def test_who_gives_up_a_job_while_it_lands_did_so_before(
    bench, warehouse, never_idle, held_landing
):
    """Two loads may wait for one job."""
    ask = an_ask()
    async with kept_open(warehouse):
        await warehouse.record(ask)
        landing = asyncio.create_task(land(warehouse, ["a"], ask=ask))
        await held_landing.begun()
        await warehouse.record(ask.ended(AskState.FAILED, at=NOON))
        held_landing.let_go()
        await landing
    assert await states_of(bench) == [("landed",)]


async def test_what_is_noted_while_the_journal_is_taken_in_is_not_lost(
    bench, warehouse, never_idle
):
    """It waits for that transaction, at the end of which the journal is cleared."""
    one, other = (Ask.intend(on_day(day), at=NOON, run_id=None) for day in (1, 2))
    held = Held()

    def hold(_):
        yield Statement("SELECT 1")
        held()

    async with kept_open(warehouse):
        await warehouse.claim(one, adopt_since=NOON)
        reading = asyncio.create_task(warehouse.transact(hold))
        await held.begun()
        noting = asyncio.create_task(warehouse.claim(other, adopt_since=NOON))
        await asyncio.sleep(0.1)
        assert not noting.done()
        held.let_go()
        await asyncio.gather(reading, noting)
    assert await states_of(bench) == [("intended",), ("intended",)]


async def test_a_line_that_fails_during_a_landing_is_none(
    warehouse, never_idle, held_landing, monkeypatch
):
    """What follows is noted, and the landing is not undone."""
    mine = an_ask(on_day(1))
    lost, kept = (Ask.intend(on_day(day), at=NOON, run_id=None) for day in (2, 3))
    write = os.write
    async with kept_open(warehouse):
        await warehouse.record(mine)
        landing = asyncio.create_task(land(warehouse, ["a"], ask=mine))
        await held_landing.begun()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
            with pytest.raises(WarehouseAccessError, match="No space left"):
                await warehouse.claim(lost, adopt_since=NOON)
        noting = asyncio.create_task(warehouse.claim(kept, adopt_since=NOON))
        held_landing.let_go()
        await asyncio.gather(landing, noting)
    known = await warehouse.history(MOBILE.site_id, WEEK)
    assert states_by_day(known) == {1: "landed", 3: "intended"}


async def load_asks(warehouse, intents):
    """What a load does with its warehouse: every third ask fails, the others land."""

    async def one(intent):
        claim = await warehouse.claim(intent, adopt_since=NOON)
        assert (claim.adopted, claim.orphans) == (False, 0)
        submitted = intent.submitted(a_job(intent.partition, job_id=intent.ask_id))
        await warehouse.record(submitted)
        if _fails(intent):
            await warehouse.record(submitted.ended(AskState.FAILED, at=NOON))
            await warehouse.history(MOBILE.site_id, WEEK)
        else:
            await land(warehouse, [intent.ask_id], ask=submitted)

    async with kept_open(warehouse):
        await asyncio.gather(*map(one, intents))


def _fails(intent):
    return intent.partition.day.day % 3 == 0


async def test_loads_in_several_threads_lose_and_double_nothing(bench, warehouse, monkeypatch):
    """While they take the journal in and let go of the file every few verbs."""
    monkeypatch.setattr(leases, "LONGEST_SECONDS", 0.1)
    monkeypatch.setattr(leases, "BREAK_SECONDS", 0.001)
    in_turn, note = [], Database.note
    monkeypatch.setattr(Database, "note", lambda *given: in_turn.append(1) or note(*given))
    days = [MOBILE.day + timedelta(days=n) for n in range(120)]
    intents = [Ask.intend(replace(MOBILE, day=day), at=NOON, run_id=None) for day in days]
    shares = [intents[n::3] for n in range(3)]
    loads = [load_asks(bench.open(), share) for share in shares]
    await asyncio.gather(*(asyncio.to_thread(asyncio.run, load) for load in loads))
    assert 0 < len(in_turn) < 2 * len(intents), "some notes waited for a turn, and some did not"
    ended = [(one.ask_id, "failed" if _fails(one) else "landed") for one in intents]
    asks = await bench.sql("SELECT ask_id, state FROM wix.wix_session_asks ORDER BY session_date")
    assert asks == ended
    ids = await bench.sql("SELECT session_id FROM wix.wix_session_ids ORDER BY session_date")
    assert ids == [(ask_id,) for ask_id, state in ended if state == "landed"]


async def test_the_journal_of_a_file_that_is_gone_does_not_keep_a_new_one_from_being_made(
    bench, journal
):
    """A person has removed the file, and not what lay beside it."""
    Journal(journal).write([an_ask()])
    warehouse = await bench.ready()
    assert (await land(warehouse, ["a"], on_day(1))).state is AskState.LANDED
    assert not journal.exists()


async def test_a_load_that_ends_well_leaves_no_journal(bench, warehouse, journal, never_idle):
    """Also where its last answer was the last thing it noted of."""
    ask = an_ask()
    async with kept_open(warehouse):
        await warehouse.record(ask)
        await land(warehouse, ["a"], ask=ask)
        assert journal.exists()
    assert not journal.exists()
    assert await states_of(bench) == [("landed",)]


async def test_a_link_to_the_file_leads_to_its_journal(bench, warehouse, journal, tmp_path):
    """And so does a path from wherever a process is."""
    ask = an_ask()
    Journal(journal).write([ask])
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.duckdb"
    link.symlink_to(bench.file)
    by_link = open_warehouse(f"duckdb:///{link}", schema="wix")
    assert await by_link.history(MOBILE.site_id, MOBILE.window) == [ask]
    assert not journal.exists()


async def test_motherduck_has_no_journal_to_be_named_after_its_token(tmp_path, monkeypatch):
    """Others may claim there at any time. A DuckDB file stands in for it here."""
    connect = duckdb.connect
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(duckdb, "connect", lambda *_, **__: connect(str(tmp_path / "cloud")))
    warehouse = open_warehouse(f"md:shop?motherduck_token={'x' * 300}")
    await warehouse.prepare()
    async with kept_open(warehouse):
        intent = Ask.intend(MOBILE, at=NOON, run_id=None)
        await warehouse.claim(intent, adopt_since=NOON)
        await warehouse.record(intent.submitted(a_job()))
        landed = await land(warehouse, ["a"], ask=intent.submitted(a_job()))
        [ask] = await warehouse.history(MOBILE.site_id, MOBILE.window)
    assert (landed.state, ask.state) == (AskState.LANDED, AskState.LANDED)
    assert [*tmp_path.iterdir()] == [tmp_path / "cloud"]

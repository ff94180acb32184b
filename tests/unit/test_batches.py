"""Answers that land together come to what they come to one after the other."""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_wix.errors import WarehouseError
from prefect_wix.spool import Spool
from prefect_wix.warehouse.database import Database
from prefect_wix.warehouse.interface import Answer
from prefect_wix.warehouse.journal import Journal
from prefect_wix.warehouse.staging import stage
from prefect_wix.warehouse.steps import Tables
from tests.warehouses import NOON, an_ask, on_day

TABLES = Tables("main", arrays=True)
CONTENTS = ("wix_session_ids", "wix_session_receipts", "wix_session_asks")


class Engine:
    """A DuckDB in memory, with the tables in it."""

    def __init__(self, journal):
        self.connection = duckdb.connect()
        self.database = Database(self.connection, lambda _: journal)
        self.database.run(TABLES.prepare())

    def publish(self, answer):
        steps = TABLES.publish(answer, NOON)
        return self.database.transact(TABLES, steps, lambda cursor: stage(cursor, answer.spool))

    def publish_all(self, answers):
        """As a warehouse does: together what can, and the others after it."""
        first = self.database.land_first(TABLES, answers, NOON)
        both = zip(answers, first, strict=True)
        return [landed or self.publish(answer) for answer, landed in both]

    def content(self):
        return {
            table: sorted(self.connection.execute(f"FROM {table}").fetchall(), key=repr)
            for table in CONTENTS
        }


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    return Journal(tmp_path_factory.mktemp("journal") / "asks")


@contextmanager
def two_engines(journal):
    one, other = Engine(journal), Engine(journal)
    with closing(one.database), closing(other.database):
        yield one, other


@contextmanager
def answers_of(drawn):
    """Answers from (day, ids, hours) each, with the id of an ask that tells them apart."""
    with ExitStack() as spools:
        answers = []
        for number, (day, ids, hours) in enumerate(drawn):
            ask = replace(an_ask(on_day(day), hours=hours), ask_id=f"ask-{number}")
            spool = spools.enter_context(Spool())
            spool.add(sorted(ids))
            answers.append(Answer(ask, spool, spool.digest(), repeats=0))
        yield answers


days = st.integers(1, 3)
hours = st.integers(0, 5)
an_answer = st.tuples(days, st.sets(st.sampled_from("abcde")), hours)


@given(before=st.lists(an_answer, max_size=3), together=st.lists(an_answer, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_answers_land_together_as_they_do_one_by_one(journal, before, together):
    """Whatever was there, and also where two are for one day."""
    with two_engines(journal) as (one, other), answers_of(before + together) as answers:
        for answer in answers[: len(before)]:
            one.publish(answer)
            other.publish(answer)
        late = answers[len(before) :]
        # Those that are first for their day are written first; the others find them there.
        assert sorted(map(repr, other.publish_all(late))) == sorted(
            map(repr, map(one.publish, late))
        )
        assert one.content() == other.content()


def test_first_answers_take_as_many_statements_as_one_of_them(journal, monkeypatch):
    executed = []
    execute = Database._execute

    def counted(database, cursor, statement):
        executed.append(statement)
        return execute(database, cursor, statement)

    monkeypatch.setattr(Database, "_execute", counted)
    counts = []
    with two_engines(journal) as engines:
        for engine, number in zip(engines, (1, 8), strict=True):
            executed.clear()
            drawn = [(day, {"a", "b"}, 0) for day in range(1, 1 + number)]
            with answers_of(drawn) as answers:
                assert {landed.added for landed in engine.publish_all(answers)} == {2}
            counts.append(len(executed))
    assert counts[0] == counts[1]


def test_ids_that_do_not_arrive_are_no_answer(journal, monkeypatch):
    insert_ids = Tables.insert_ids
    monkeypatch.setattr(
        Tables,
        "insert_ids",
        lambda tables, rows: insert_ids(tables, [(*row[:-1], row[-1][1:]) for row in rows]),
    )
    with two_engines(journal) as (one, _), answers_of([(1, {"a", "b"}, 0)]) as answers:
        with pytest.raises(WarehouseError, match="1 arrived"):
            one.publish_all(answers)
        assert one.content() == {table: [] for table in CONTENTS}

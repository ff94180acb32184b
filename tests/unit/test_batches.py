"""Verbs that are done together come to what they come to one after the other."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_wix.errors import WarehouseError
from prefect_wix.partitions import Ask, AskState
from prefect_wix.spool import Spool
from prefect_wix.warehouse.batches import Claiming, Recording, claim, keep_ledger, land_all
from prefect_wix.warehouse.interface import Answer
from prefect_wix.warehouse.staging import stage, stage_rows
from prefect_wix.warehouse.steps import STAGED, Tables, drive
from tests.warehouses import NOON, a_job, an_ask, on_day

TABLES = Tables("main")
CONTENTS = ("wix_session_ids", "wix_session_receipts", "wix_session_asks")


class Engine:
    """A DuckDB in memory, with the tables in it."""

    def __init__(self):
        self.connection = duckdb.connect()
        self.statements = 0
        self.run(TABLES.prepare())

    def run(self, steps):
        return drive(steps, self._execute)

    def _execute(self, statement):
        self.statements += 1
        return self.connection.execute(statement.sql, statement.values).fetchall()

    def publish(self, answer):
        stage(self.connection, answer.spool)
        landed = self.run(TABLES.publish(answer, NOON))
        self.connection.execute(f"DROP TABLE {STAGED}")
        return landed

    def publish_all(self, answers):
        stage_rows(self.connection, answers)
        landed = self.run(land_all(TABLES, answers, NOON))
        self.connection.execute(f"DROP TABLE {STAGED}")
        return landed

    def content(self):
        return {
            table: sorted(self.connection.execute(f"FROM {table}").fetchall(), key=repr)
            for table in CONTENTS
        }


@contextmanager
def two_engines():
    one, other = Engine(), Engine()
    with one.connection, other.connection:
        yield one, other


@contextmanager
def answers_of(drawn):
    """Answers from (day, ids, hours) each, with the id of an ask that tells them apart."""
    with ExitStack() as spools:
        answers = []
        for number, (day, ids, hours, derived) in enumerate(drawn):
            ask = replace(
                an_ask(on_day(day), hours=hours),
                ask_id=f"ask-{number}",
                derived_from="ALL - DESKTOP" if derived else None,
            )
            spool = spools.enter_context(Spool())
            spool.add(sorted(ids))
            answers.append(Answer(ask, spool, spool.digest(), repeats=0))
        yield answers


days = st.integers(1, 3)
hours = st.integers(0, 5)
an_answer = st.tuples(days, st.sets(st.sampled_from("abcde")), hours, st.booleans())


@given(before=st.lists(an_answer, max_size=3), together=st.lists(an_answer, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_answers_land_together_as_they_do_one_by_one(before, together):
    """Whatever was there, and also where two are for one day."""
    with two_engines() as (one, other), answers_of(before + together) as answers:
        for answer in answers[: len(before)]:
            one.publish(answer)
            other.publish(answer)
        late = answers[len(before) :]
        # Those that are first for their day are written first; the others find them there.
        assert sorted(map(repr, other.publish_all(late))) == sorted(
            map(repr, map(one.publish, late))
        )
        assert one.content() == other.content()


def test_first_answers_take_as_many_statements_as_one_of_them():
    with two_engines() as (one, other):
        for engine, number in ((one, 1), (other, 8)):
            engine.statements = 0
            with answers_of(
                [(day, {"a", "b"}, 0, False) for day in range(1, 1 + number)]
            ) as answers:
                assert {landed.added for landed in engine.publish_all(answers)} == {2}
        assert one.statements == other.statements


def test_ids_that_do_not_arrive_are_no_answer():
    with two_engines() as (one, _), answers_of([(1, {"a", "b"}, 0, False)]) as answers:
        stage_rows(one.connection, answers)
        one.connection.execute(f"DELETE FROM {STAGED} WHERE session_id = 'b'")
        with pytest.raises(WarehouseError, match=r"2 ids of .* and 1 arrived"):
            one.run(land_all(TABLES, answers, NOON))


def verbs_of(drawn):
    """Claims, and records of asks that were or were not claimed before."""
    verbs = []
    for number, (verb, day, at) in enumerate(drawn):
        when = NOON + timedelta(hours=at, seconds=number)
        ask = replace(Ask.intend(on_day(day), at=when, run_id=None), ask_id=f"ask-{number}")
        if verb == "claim":
            verbs.append(Claiming(ask, adopt_since=NOON + timedelta(hours=2)))
        elif verb == "submitted":
            of = next(
                (one.ask for one in reversed(verbs) if one.ask.partition == ask.partition), ask
            )
            verbs.append(Recording(of.submitted(a_job(on_day(day), hours=at))))
        else:
            verbs.append(Recording(ask.ended(AskState.FAILED, at=when)))
    return verbs


a_verb = st.tuples(st.sampled_from(["claim", "submitted", "failed"]), days, hours)


@given(before=st.lists(a_verb, max_size=4), together=st.lists(a_verb, min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_a_ledger_kept_together_is_the_one_kept_verb_by_verb(before, together):
    """A claim sees what was claimed and recorded just before it, in the same transaction too."""
    verbs = verbs_of(before + together)
    with two_engines() as (one, other):
        for verb in verbs[: len(before)]:
            assert one.run(keep_ledger(TABLES, [verb])) == other.run(keep_ledger(TABLES, [verb]))
        late = verbs[len(before) :]
        expected = [result for verb in late for result in one.run(keep_ledger(TABLES, [verb]))]
        assert other.run(keep_ledger(TABLES, late)) == expected
        assert one.content() == other.content()


def test_the_id_of_one_job_and_the_intent_of_the_next_are_three_statements():
    """As many as a claim alone and one more."""
    with two_engines() as (engine, _):
        ask = Ask.intend(on_day(1), at=NOON, run_id=None)
        engine.run(claim(TABLES, ask, NOON))
        engine.statements = 0
        following = Ask.intend(on_day(2), at=NOON, run_id=None)
        verbs = [Recording(ask.submitted(a_job(on_day(1)))), Claiming(following, NOON)]
        [_, claimed] = engine.run(keep_ledger(TABLES, verbs))
        assert (claimed.ask, engine.statements) == (following, 3)


def test_a_claim_that_is_repeated_takes_its_own_intent_for_no_orphan():
    """A commit may have taken effect though it was said to have failed."""
    with two_engines() as (engine, _):
        ask = Ask.intend(on_day(1), at=NOON, run_id=None)
        for _ in range(2):
            assert engine.run(claim(TABLES, ask, NOON)).orphans == 0
        assert len(engine.content()["wix_session_asks"]) == 1

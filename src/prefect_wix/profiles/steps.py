"""The transaction that computes profiles and certificates in the warehouse, in SQL.

A temporary table holds which segments list each session, one row per day and session; everything
else is computed from it. Only days whose input changed are recomputed. The SQL expressions are in
`expressions` and `relations`; `reading` reads the results.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.profiles.certificate import Findings, certify
from prefect_wix.profiles.days import (
    Flows,
    LandedDay,
    fingerprint,
    landed_days,
    name_flows,
    neighbours,
)
from prefect_wix.profiles.expressions import deepest_step, device, dropped_before, kind
from prefect_wix.profiles.relations import DAYS_TILE, Relation, relations
from prefect_wix.profiles.schema import COMPLETENESS, PROFILED_DAYS
from prefect_wix.profiles.summary import CertificateRow
from prefect_wix.warehouse.schema import Statement, Steps, Table
from prefect_wix.warehouse.transactions import SessionTransactions

EXAMPLES = 5
"""Most IDs that are stored as examples of a broken relation, per day."""

_LISTED = "wix_listed"
_OVERLAPS = "wix_overlaps"
_ROWS_AT_ONCE = 500
_TABLES = ("wix_sessions", "wix_session_flows", "wix_completeness", "wix_session_profiles")


@dataclass(frozen=True)
class Profiling:
    """Computes the profiles of one site and window.

    Attributes:
        tables: the tables of the schema.
        site_id: the Wix site.
        window: local days; few enough for one transaction.
        flows: flow name -> segment key of a navigation flow.
        at: the value of ``computed_at``.
    """

    tables: SessionTransactions
    site_id: str
    window: Window
    flows: Flows
    at: datetime

    def compute(self) -> Steps[list[date]]:
        """Recompute the stale days.

        Returns:
            The recomputed days, oldest first. Days that a load changed during the computation are
            not among them: their rows are unchanged and still stale.
        """
        days = yield from self._landed()
        stale = yield from self._stale(days)
        if not stale:
            return []
        yield from self._collect_ids(stale, days)
        unchanged = yield from self._current(stale, days)
        if unchanged:
            yield from self._delete(unchanged)
        for segments, group in _by_segments(unchanged, days).items():
            yield from self._write(group, segments, days)
        for table in (_LISTED, _OVERLAPS):
            yield Statement(f"DROP TABLE {table}")
        return unchanged

    def _landed(self) -> Steps[dict[date, LandedDay]]:
        window = self.window
        with_neighbours = Window(window.start - ONE_DAY, window.end + ONE_DAY, window.timezone)
        receipts = yield from self.tables.read_receipts(self.site_id, with_neighbours)
        return landed_days(window, receipts)

    def _stale(self, days: Mapping[date, LandedDay]) -> Steps[list[date]]:
        rows = yield Statement(
            "SELECT session_date, timezone, fingerprint "
            f"FROM {self.tables.name('wix_session_profiles')} "
            "WHERE site_id = $1 AND session_date >= $2 AND session_date < $3",
            (self.site_id, self.window.start, self.window.end),
        )
        stored = {day: value for day, zone, value in rows if zone == self.window.timezone}
        return [day for day in self.window.days() if stored.get(day) != self._hash(day, days)]

    def _current(self, stale: Sequence[date], days: Mapping[date, LandedDay]) -> Steps[list[date]]:
        """The days whose receipts did not change while their IDs were collected."""
        now = yield from self._landed()
        return [day for day in stale if self._hash(day, now) == self._hash(day, days)]

    def _hash(self, day: date, days: Mapping[date, LandedDay]) -> str:
        return fingerprint(day, days, self.flows)

    # -- collecting IDs ------------------------------------------------------------------------

    def _collect_ids(self, stale: Sequence[date], days: Mapping[date, LandedDay]) -> Steps[None]:
        columns = _columns(days)
        flags = "".join(f", {column} BOOLEAN" for column in columns.values())
        yield Statement(
            f"CREATE TEMP TABLE {_LISTED} (session_date DATE, session_id TEXT, "
            f"first_seen_at TIMESTAMPTZ, last_seen_at TIMESTAMPTZ{flags})"
        )
        yield Statement(
            f"CREATE TEMP TABLE {_OVERLAPS} (session_date DATE, session_id TEXT, continued BOOLEAN)"
        )
        yield self._insert_ids(sorted({each for day in stale for each in neighbours(day)}), columns)
        yield Statement(
            f"INSERT INTO {_OVERLAPS} SELECT p.session_date, p.session_id, "
            f"bool_or(q.session_date < p.session_date) FROM {_LISTED} p JOIN {_LISTED} q "
            "ON q.session_id = p.session_id AND (q.session_date = p.session_date - 1 "
            "OR q.session_date = p.session_date + 1) GROUP BY p.session_date, p.session_id"
        )

    def _insert_ids(self, days: Sequence[date], columns: Mapping[str, str]) -> Statement:
        ids, receipts = map(self.tables.name, ("wix_session_ids", "wix_session_receipts"))
        values = [self.site_id, self.window.timezone, days[0], days[-1], *columns, *days]
        flags = "".join(f", bool_or(r.segment = ${n})" for n in range(5, 5 + len(columns)))
        return Statement(
            f"INSERT INTO {_LISTED} SELECT r.session_date, i.session_id, min(r.submitted_at), "
            f"max(r.submitted_at){flags} FROM {receipts} r JOIN {ids} i ON i.site_id = r.site_id "
            "AND i.segment = r.segment AND i.session_date = r.session_date WHERE r.site_id = $1 "
            # Conditions on both tables, so that each is scanned for these days only.
            "AND i.site_id = $1 AND i.session_date >= $3 AND i.session_date <= $4 "
            f"AND r.timezone = $2 AND r.session_date IN ({_params(5 + len(columns), days)}) "
            "GROUP BY r.session_date, i.session_id",
            tuple(values),
        )

    # -- writing -------------------------------------------------------------------------------

    def _delete(self, stale: Sequence[date]) -> Steps[None]:
        for table in _TABLES:
            yield Statement(
                f"DELETE FROM {self.tables.name(table)} "
                f"WHERE site_id = $1 AND session_date IN ({_params(2, stale)})",
                (self.site_id, *stale),
            )

    def _write(
        self, stale: Sequence[date], segments: Sequence[str], days: Mapping[date, LandedDay]
    ) -> Steps[None]:
        """Write the rows of days that have the same landed segments."""
        columns = _columns(days)
        listed = {segment: f"p.{columns[segment]}" for segment in segments}
        yield self._insert_sessions(stale, listed)
        for name, key in name_flows(segments, self.flows):
            yield self._insert_flow(stale, name, listed[key])
        findings = yield from self._test_relations(stale, listed)
        rows = [row for day in stale for row in certify(day, days.get(day, LandedDay()), findings)]
        yield from self._insert(COMPLETENESS, map(self._certificate, rows))
        counts = {row.day: row.sessions for row in rows if row.relation == DAYS_TILE.name}
        fingerprints = {day: self._hash(day, days) for day in stale}
        yield from self._insert(
            PROFILED_DAYS,
            (
                (*self._key(day), fingerprints[day], len(segments), counts[day], self.at)
                for day in stale
            ),
        )

    def _insert_sessions(self, stale: Sequence[date], listed: Mapping[str, str]) -> Statement:
        on_two_days = "o.session_id IS NOT NULL"
        return Statement(
            f"INSERT INTO {self.tables.name('wix_sessions')} (site_id, session_date, timezone, "
            "session_id, device, deepest_step, dropped_before, kind, continued, first_seen_at, "
            "last_seen_at) SELECT CAST($1 AS TEXT), p.session_date, CAST($2 AS TEXT), "
            f"p.session_id, {device(listed)}, {deepest_step(listed)}, {dropped_before(listed)}, "
            f"{kind(listed, on_two_days=on_two_days)}, coalesce(o.continued, FALSE), "
            f"p.first_seen_at, p.last_seen_at FROM {_LISTED} p LEFT JOIN {_OVERLAPS} o "
            "ON o.session_id = p.session_id AND o.session_date = p.session_date "
            f"WHERE p.session_date IN ({_params(3, stale)})",
            (self.site_id, self.window.timezone, *stale),
        )

    def _insert_flow(self, stale: Sequence[date], name: str, followed: str) -> Statement:
        return Statement(
            f"INSERT INTO {self.tables.name('wix_session_flows')} "
            "(site_id, session_date, session_id, flow) SELECT CAST($1 AS TEXT), p.session_date, "
            f"p.session_id, CAST($2 AS TEXT) FROM {_LISTED} p "
            f"WHERE {followed} AND p.session_date IN ({_params(3, stale)})",
            (self.site_id, name, *stale),
        )

    def _certificate(self, row: CertificateRow) -> tuple[Any, ...]:
        what = (row.relation, row.description, row.state.value, row.sessions, row.exceptions)
        lists = (json.dumps(row.examples), json.dumps(row.missing))
        return (*self._key(row.day), *what, *lists, self.at)

    def _key(self, day: date) -> tuple[Any, ...]:
        return self.site_id, day, self.window.timezone

    def _insert(self, table: Table, rows: Iterable[tuple[Any, ...]]) -> Steps[None]:
        rest = list(rows)
        while rest:
            some, rest = rest[:_ROWS_AT_ONCE], rest[_ROWS_AT_ONCE:]
            yield self.tables.insert(table, some)

    # -- certificates --------------------------------------------------------------------------

    def _test_relations(self, stale: Sequence[date], listed: Mapping[str, str]) -> Steps[Findings]:
        """Count contradictions by day, for each relation whose segments are landed."""
        testable = [
            one for one in (DAYS_TILE, *relations(listed)) if listed.keys() >= set(one.members)
        ]
        findings = Findings()
        days = f"p.session_date IN ({_params(1, stale)})"
        for day, *pairs in (yield self._count(testable, listed, days, stale)):
            for one, compared, exceptions in zip(testable, pairs[::2], pairs[1::2], strict=True):
                findings.compared[day, one.name] = compared
                findings.exceptions[day, one.name] = exceptions
        for one in testable:
            if any(findings.exceptions[day, one.name] for day in stale):
                rows = f"{_LISTED} p WHERE {days} AND ({one.contradicted(listed)})"
                yield from _examples(findings, one, rows, stale)
        yield from self._count_overlaps(findings, stale)
        return findings

    def _count(
        self,
        testable: Sequence[Relation],
        listed: Mapping[str, str],
        days: str,
        stale: Sequence[date],
    ) -> Statement:
        counts = ", ".join(
            f"count(*) FILTER (WHERE {condition})"
            for one in testable
            for condition in (one.compared(listed), one.contradicted(listed))
        )
        return Statement(
            f"SELECT p.session_date, {counts} FROM {_LISTED} p WHERE {days} "
            "GROUP BY p.session_date",
            tuple(stale),
        )

    def _count_overlaps(self, findings: Findings, stale: Sequence[date]) -> Steps[None]:
        overlaps = f"{_OVERLAPS} p WHERE p.session_date IN ({_params(1, stale)})"
        rows = yield Statement(
            f"SELECT p.session_date, count(*) FROM {overlaps} GROUP BY p.session_date",
            tuple(stale),
        )
        findings.exceptions.update({(day, DAYS_TILE.name): count for day, count in rows})
        yield from _examples(findings, DAYS_TILE, overlaps, stale)


def _examples(
    findings: Findings, relation: Relation, rows_of: str, days: Sequence[date]
) -> Steps[None]:
    rows = yield Statement(
        "SELECT session_date, session_id FROM (SELECT p.session_date, p.session_id, row_number() "
        "OVER (PARTITION BY p.session_date ORDER BY p.session_id) AS place "
        f"FROM {rows_of}) ranked WHERE place <= {EXAMPLES} ORDER BY session_date, place",
        tuple(days),
    )
    for day, session_id in rows:
        findings.examples[day, relation.name].append(session_id)


def _by_segments(
    stale: Iterable[date], days: Mapping[date, LandedDay]
) -> dict[tuple[str, ...], list[date]]:
    groups: defaultdict[tuple[str, ...], list[date]] = defaultdict(list)
    for day in stale:
        groups[tuple(sorted(days.get(day, LandedDay()).receipts))].append(day)
    return dict(groups)


def _columns(days: Mapping[date, LandedDay]) -> dict[str, str]:
    """Segment key -> column, for each segment that is landed on any of the days."""
    segments = sorted({segment for landed in days.values() for segment in landed.receipts})
    return {segment: f"s{n}" for n, segment in enumerate(segments)}


def _params(first: int, values: Sequence[object]) -> str:
    return ", ".join(f"${n}" for n in range(first, first + len(values)))

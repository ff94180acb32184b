"""The transaction that computes profiles and certificates in the warehouse, in SQL.

A temporary table holds which segments list each session, one row per day and session; everything
else is computed from it. Only days whose input changed are recomputed. The SQL expressions are in
`expressions` and `relations`; `reading` reads the results.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.profiles.days import Days, Flows, fingerprint, landed_days, name_flows, neighbours
from prefect_wix.profiles.expressions import deepest_step, device, dropped_before, kind
from prefect_wix.profiles.relations import DAYS_TILE, Findings, certify, relations
from prefect_wix.profiles.schema import COMPLETENESS, PROFILED_DAYS
from prefect_wix.warehouse.schema import Statement, Steps
from prefect_wix.warehouse.transactions import SessionTransactions

EXAMPLES = 5
"""Most IDs that are stored as examples of a broken relation, per day."""

_LISTED = "wix_listed"
_OVERLAPS = "wix_overlaps"
_ROWS = (
    f"{_LISTED} p LEFT JOIN {_OVERLAPS} o "
    "ON o.session_id = p.session_id AND o.session_date = p.session_date"
)
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
        hashes = {day: fingerprint(day, days, self.flows) for day in self.window.days()}
        stored = yield from self._stored_hashes()
        stale = [day for day, value in hashes.items() if stored.get(day) != value]
        if not stale:
            return []
        yield from self._collect_ids(stale, days)
        now = yield from self._landed()
        unchanged = [day for day in stale if fingerprint(day, now, self.flows) == hashes[day]]
        groups: defaultdict[tuple[str, ...], list[date]] = defaultdict(list)
        for day in unchanged:
            groups[tuple(sorted(days[day].receipts))].append(day)
        for segments, group in groups.items():
            yield from self._write(group, segments, days, hashes)
        for table in (_LISTED, _OVERLAPS):
            yield Statement(f"DROP TABLE {table}")
        return unchanged

    def _landed(self) -> Steps[Days]:
        window = self.window
        with_neighbours = Window(window.start - ONE_DAY, window.end + ONE_DAY, window.timezone)
        receipts = yield from self.tables.read_receipts(self.site_id, with_neighbours)
        return landed_days(window, receipts)

    def _stored_hashes(self) -> Steps[dict[date, str]]:
        rows = yield Statement(
            "SELECT session_date, timezone, fingerprint "
            f"FROM {self.tables.name('wix_session_profiles')} "
            "WHERE site_id = $1 AND session_date >= $2 AND session_date < $3",
            (self.site_id, self.window.start, self.window.end),
        )
        return {day: value for day, zone, value in rows if zone == self.window.timezone}

    # -- collecting IDs ------------------------------------------------------------------------

    def _collect_ids(self, stale: Sequence[date], days: Days) -> Steps[None]:
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

    def _write(
        self,
        stale: Sequence[date],
        segments: Sequence[str],
        days: Days,
        hashes: Mapping[date, str],
    ) -> Steps[None]:
        """Replace the rows of days that have the same landed segments."""
        for table in _TABLES:
            yield Statement(
                f"DELETE FROM {self.tables.name(table)} "
                f"WHERE site_id = $1 AND session_date IN ({_params(2, stale)})",
                (self.site_id, *stale),
            )
        columns = _columns(days)
        listed = {segment: f"p.{columns[segment]}" for segment in segments}
        yield self._insert_sessions(stale, listed)
        for name, key in name_flows(segments, self.flows):
            yield self._insert_flow(stale, name, listed[key])
        findings = yield from self._test_relations(stale, listed)
        rows = [row for day in stale for row in certify(day, days[day], findings)]
        written = [
            (
                *(self.site_id, row.day, self.window.timezone, row.relation, row.description),
                *(row.state.value, row.sessions, row.exceptions),
                *(json.dumps(row.examples), json.dumps(row.missing), self.at),
            )
            for row in rows
        ]
        # At most 31 days with 37 relations each: few enough for the values of one statement.
        yield self.tables.insert(COMPLETENESS, written)
        sessions = {row.day: row.sessions for row in rows if row.relation == DAYS_TILE.name}
        totals = [
            (self.site_id, day, self.window.timezone, hashes[day], len(segments), count, self.at)
            for day, count in sessions.items()
        ]
        yield self.tables.insert(PROFILED_DAYS, totals)

    def _insert_sessions(self, stale: Sequence[date], listed: Mapping[str, str]) -> Statement:
        return Statement(
            f"INSERT INTO {self.tables.name('wix_sessions')} (site_id, session_date, timezone, "
            "session_id, device, deepest_step, dropped_before, kind, continued, first_seen_at, "
            "last_seen_at) SELECT CAST($1 AS TEXT), p.session_date, CAST($2 AS TEXT), "
            f"p.session_id, {device(listed)}, {deepest_step(listed)}, {dropped_before(listed)}, "
            f"{kind(listed)}, coalesce(o.continued, FALSE), "
            f"p.first_seen_at, p.last_seen_at FROM {_ROWS} "
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

    def _test_relations(self, stale: Sequence[date], listed: Mapping[str, str]) -> Steps[Findings]:
        """Count contradictions by day, for each relation whose segments are landed."""
        testable = [one for one in relations(listed) if listed.keys() >= set(one.members)]
        counts = ", ".join(
            f"count(*) FILTER (WHERE {condition})"
            for one in testable
            for condition in (one.compared(listed), one.contradicted(listed))
        )
        rows_of_days = f"{_ROWS} WHERE p.session_date IN ({_params(1, stale)})"
        counted = yield Statement(
            f"SELECT p.session_date, {counts} FROM {rows_of_days} GROUP BY p.session_date",
            tuple(stale),
        )
        findings = Findings()
        for day, *pairs in counted:
            for one, compared, exceptions in zip(testable, pairs[::2], pairs[1::2], strict=True):
                findings.compared[day, one.name] = compared
                findings.exceptions[day, one.name] = exceptions
        for one in testable:
            if any(findings.exceptions[day, one.name] for day in stale):
                contradicted = f"{rows_of_days} AND ({one.contradicted(listed)})"
                for day, session_id in (yield _first_of_each_day(contradicted, stale)):
                    findings.examples[day, one.name].append(session_id)
        return findings


def _first_of_each_day(rows: str, days: Sequence[date]) -> Statement:
    return Statement(
        "SELECT session_date, session_id FROM (SELECT p.session_date, p.session_id, row_number() "
        "OVER (PARTITION BY p.session_date ORDER BY p.session_id) AS place "
        f"FROM {rows}) ranked WHERE place <= {EXAMPLES} ORDER BY session_date, place",
        tuple(days),
    )


def _columns(days: Days) -> dict[str, str]:
    """Segment key -> column, for each segment that is landed on any of the days."""
    segments = sorted({segment for landed in days.values() for segment in landed.receipts})
    return {segment: f"s{n}" for n, segment in enumerate(segments)}


def _params(first: int, values: Sequence[object]) -> str:
    return ", ".join(f"${n}" for n in range(first, first + len(values)))

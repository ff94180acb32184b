"""Reads the summary of a window from the profile tables.

The transactions that fill the tables are in `steps`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime

from prefect_wix.planning.windows import Window
from prefect_wix.profiles.days import Days, Flows, landed_days, name_flows
from prefect_wix.profiles.relations import STEPS
from prefect_wix.profiles.summary import (
    NO_DEVICE,
    Calendar,
    CertificateRow,
    DeviceDay,
    FlowCount,
    ProfileSummary,
    ReconciliationRow,
    RelationState,
)
from prefect_wix.warehouse.schema import Rows, Statement, Steps
from prefect_wix.warehouse.transactions import SessionTransactions

_IN_WINDOW = "site_id = $1 AND session_date >= $2 AND session_date < $3 AND timezone = $4"


@dataclass(frozen=True)
class Reading:
    """Reads the summary of one site and window.

    Attributes:
        tables: the tables of the schema.
        site_id: the Wix site.
        window: local days.
        flows: flow name -> segment key of a navigation flow.
    """

    tables: SessionTransactions
    site_id: str
    window: Window
    flows: Flows

    def summary(self) -> Steps[ProfileSummary]:
        """Read the whole summary."""
        groups = yield self._select(
            "session_date, coalesce(device, '" + NO_DEVICE + "'), deepest_step, kind, count(*)",
            "wix_sessions",
            "GROUP BY 1, 2, 3, 4 ORDER BY 1, 2",
        )
        computed = yield self._select("max(computed_at)", "wix_session_profiles")
        reconciled = yield self._select(
            "session_date, landed, counted, CAST(ratio AS DOUBLE PRECISION), "
            "CAST(trend AS DOUBLE PRECISION)",
            "wix_reconciliation",
            "ORDER BY 1",
        )
        receipts = yield from self.tables.read_receipts(self.site_id, self.window)
        calendar = _calendar(landed_days(self.window, receipts))
        return ProfileSummary(
            site_id=self.site_id,
            window=self.window,
            computed_at=(computed[0][0] or datetime.now(UTC)).astimezone(UTC),
            sessions=sum(row[-1] for row in groups),
            funnel=_funnel(groups),
            devices=_devices(groups),
            flows=(yield from self._flows(calendar)),
            kinds=_kinds(groups),
            calendar=calendar,
            certificate=(yield from self._certificate()),
            reconciliation=tuple(ReconciliationRow(*row) for row in reconciled),
        )

    def _select(self, columns: str, table: str, rest: str = "") -> Statement:
        values = (self.site_id, self.window.start, self.window.end, self.window.timezone)
        return Statement(
            f"SELECT {columns} FROM {self.tables.name(table)} WHERE {_IN_WINDOW} {rest}", values
        )

    def _flows(self, calendar: Calendar) -> Steps[tuple[FlowCount, ...]]:
        rows = yield Statement(
            f"SELECT flow, count(*) FROM {self.tables.name('wix_session_flows')} "
            "WHERE site_id = $1 AND session_date >= $2 AND session_date < $3 GROUP BY flow",
            (self.site_id, self.window.start, self.window.end),
        )
        sessions: dict[str, int] = {str(flow): count for flow, count in rows}
        return tuple(
            FlowCount(name, sessions.get(name, 0), len(calendar[key]))
            for name, key in name_flows(calendar, self.flows)
        )

    def _certificate(self) -> Steps[tuple[CertificateRow, ...]]:
        rows = yield self._select(
            "session_date, relation, description, state, sessions, exceptions, examples, missing",
            "wix_completeness",
            "ORDER BY 1, 2",
        )
        return tuple(
            CertificateRow(
                day,
                relation,
                description,
                RelationState(state),
                sessions,
                exceptions,
                examples=tuple(json.loads(examples)),
                missing=tuple(json.loads(missing)),
            )
            for day, relation, description, state, sessions, exceptions, examples, missing in rows
        )


def _calendar(landed: Days) -> Calendar:
    calendar: defaultdict[str, dict[date, int]] = defaultdict(dict)
    for day, one in landed.items():
        for segment, receipt in one.receipts.items():
            calendar[segment][day] = receipt.sessions
    return dict(sorted(calendar.items()))


def _funnel(groups: Rows) -> dict[str, int]:
    deepest: Counter[str] = Counter()
    for _, _, step, _, sessions in groups:
        if step is not None:
            deepest[step] += sessions
    if not deepest:
        return {}
    return {str(step): sum(deepest[one] for one in STEPS[at:]) for at, step in enumerate(STEPS)}


def _devices(groups: Rows) -> tuple[DeviceDay, ...]:
    sessions: Counter[tuple[date, str]] = Counter()
    for day, device, _, _, count in groups:
        sessions[day, device] += count
    return tuple(DeviceDay(*key, count) for key, count in sorted(sessions.items()))


def _kinds(groups: Rows) -> dict[str, int]:
    sessions: Counter[str] = Counter()
    for _, _, _, kind, count in groups:
        sessions[kind] += count
    return dict(sessions.most_common())

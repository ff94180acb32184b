"""Reads the summary of a window from the profile tables.

The transactions that fill the tables are in `steps`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect_wix.planning.windows import Window
from prefect_wix.profiles.days import Flows, landed_days, name_flows
from prefect_wix.profiles.relations import STEPS
from prefect_wix.profiles.summary import (
    NO_DEVICE,
    CertificateRow,
    DeviceDay,
    FlowCount,
    FunnelStepCount,
    KindCount,
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
        return ProfileSummary(
            site_id=self.site_id,
            window=self.window,
            computed_at=(yield from self._computed_at()),
            sessions=sum(row[-1] for row in groups),
            funnel=_funnel(groups),
            devices=_devices(groups),
            flows=(yield from self._flows()),
            kinds=_kinds(groups),
            certificate=(yield from self._certificate()),
            reconciliation=(yield from self._reconciliation()),
        )

    def _select(self, columns: str, table: str, rest: str = "") -> Statement:
        values = (self.site_id, self.window.start, self.window.end, self.window.timezone)
        return Statement(
            f"SELECT {columns} FROM {self.tables.name(table)} WHERE {_IN_WINDOW} {rest}", values
        )

    def _computed_at(self) -> Steps[datetime]:
        rows = yield self._select("max(computed_at)", "wix_session_profiles")
        computed_at: datetime = rows[0][0] or datetime.now(UTC)
        return computed_at.astimezone(UTC)

    def _flows(self) -> Steps[tuple[FlowCount, ...]]:
        receipts = yield from self.tables.read_receipts(self.site_id, self.window)
        days = Counter(
            name
            for landed in landed_days(self.window, receipts).values()
            for name, _ in name_flows(landed.receipts, self.flows)
        )
        rows = yield self._count_flows()
        sessions = {str(flow): int(count) for flow, count in rows}
        return tuple(FlowCount(name, sessions.get(name, 0), days[name]) for name in sorted(days))

    def _count_flows(self) -> Statement:
        return Statement(
            f"SELECT flow, count(*) FROM {self.tables.name('wix_session_flows')} "
            "WHERE site_id = $1 AND session_date >= $2 AND session_date < $3 GROUP BY flow",
            (self.site_id, self.window.start, self.window.end),
        )

    def _certificate(self) -> Steps[tuple[CertificateRow, ...]]:
        rows = yield self._select(
            "session_date, relation, description, state, sessions, exceptions, examples, missing",
            "wix_completeness",
            "ORDER BY 1, 2",
        )
        return tuple(map(_certificate_row, rows))

    def _reconciliation(self) -> Steps[tuple[ReconciliationRow, ...]]:
        rows = yield self._select(
            "session_date, landed, counted, ratio, trend", "wix_reconciliation", "ORDER BY 1"
        )
        return tuple(
            ReconciliationRow(day, landed, counted, _number(ratio), _number(trend))
            for day, landed, counted, ratio, trend in rows
        )


def _funnel(groups: Rows) -> tuple[FunnelStepCount, ...]:
    deepest: Counter[str] = Counter()
    for _, _, step, _, sessions in groups:
        if step is not None:
            deepest[step] += sessions
    if not deepest:
        return ()
    return tuple(
        FunnelStepCount(str(step), sum(deepest[one] for one in STEPS[at:]))
        for at, step in enumerate(STEPS)
    )


def _devices(groups: Rows) -> tuple[DeviceDay, ...]:
    sessions: Counter[tuple[Any, str]] = Counter()
    for day, device, _, _, count in groups:
        sessions[day, device] += count
    return tuple(DeviceDay(day, device, count) for (day, device), count in sorted(sessions.items()))


def _kinds(groups: Rows) -> tuple[KindCount, ...]:
    sessions: Counter[str] = Counter()
    for _, _, _, kind, count in groups:
        sessions[kind] += count
    return tuple(KindCount(kind, count) for kind, count in sessions.most_common())


def _certificate_row(row: Sequence[Any]) -> CertificateRow:
    day, relation, description, state, sessions, exceptions, examples, missing = row
    return CertificateRow(
        day=day,
        relation=relation,
        description=description,
        state=RelationState(state),
        sessions=sessions,
        exceptions=exceptions,
        examples=tuple(json.loads(examples)),
        missing=tuple(json.loads(missing)),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)

"""The values of a profile summary.

`reading` fills them; `tables`, `charts` and `report` show them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from prefect_wix.planning.windows import Window

NO_DEVICE = "unknown"
"""The device label of sessions whose device is unknown."""


Calendar = Mapping[str, Mapping[date, int]]
"""Segment key -> its landed days -> the sessions of the segment on that day."""


class RelationState(StrEnum):
    """The result of testing a relation on one local day."""

    HELD = "held"
    """No landed ID contradicts the relation."""
    BROKEN = "broken"
    """Landed IDs contradict the relation. Wix does not document it, so this may be no error."""
    NOT_TESTABLE = "not testable"
    """A segment of the relation is not landed, or its receipt is no evidence."""


@dataclass(frozen=True)
class DeviceDay:
    """The sessions of one local day on one device."""

    day: date
    device: str
    """DESKTOP, MOBILE, TABLET or `NO_DEVICE`."""
    sessions: int


@dataclass(frozen=True)
class FlowCount:
    """The sessions that followed a navigation flow."""

    flow: str
    """The name of the flow, or its segment key if it has no name."""
    sessions: int
    days: int
    """The number of days on which the flow is landed."""


@dataclass(frozen=True)
class CertificateRow:
    """The result of testing one relation on one local day."""

    day: date
    relation: str
    """The name of the relation, such as ``devices_make_all``."""
    description: str
    """The relation as text, such as ``DESKTOP + MOBILE + TABLET = ALL``."""
    state: RelationState
    sessions: int
    """The number of IDs compared."""
    exceptions: int
    """The number of IDs that contradict it; for ``days_tile``, IDs also on a neighbouring day."""
    examples: tuple[str, ...] = ()
    """Up to five of the exceptions."""
    missing: tuple[str, ...] = ()
    """The segments that are no evidence; a landed segment has its reason in parentheses."""


@dataclass(frozen=True)
class ReconciliationRow:
    """The landed sessions of one local day, and Wix's own count."""

    day: date
    landed: int
    counted: int
    """Wix's TOTAL_SESSIONS."""
    ratio: float | None
    """Landed divided by counted; None if Wix counted no session."""
    trend: float | None
    """The ratio minus the mean ratio of the seven counted days before; None without such days."""


@dataclass(frozen=True)
class ProfileSummary:
    """The profiles of one site and window, summed up for tables, charts and the report."""

    site_id: str
    window: Window
    computed_at: datetime
    """In UTC."""
    sessions: int
    """The number of rows in ``wix_sessions``; a session on two days counts twice."""
    funnel: Mapping[str, int]
    """Step (`prefect_wix.client.models.FunnelStep`) -> the sessions known to have reached it,
    widest step first; empty if no funnel step is landed."""
    devices: tuple[DeviceDay, ...]
    """Sorted by day and device; days without a session are left out."""
    flows: tuple[FlowCount, ...]
    kinds: Mapping[str, int]
    """Kind (`prefect_wix.profiles.expressions.Kind`) -> sessions, the most frequent first."""
    calendar: Calendar
    certificate: tuple[CertificateRow, ...]
    """Sorted by day and relation, for every day of the window."""
    reconciliation: tuple[ReconciliationRow, ...]
    """Sorted by day, for the days that have a stored count of Wix."""

    @property
    def states(self) -> Counter[RelationState]:
        """The number of certificate rows in each state."""
        return Counter(row.state for row in self.certificate)

    @property
    def broken(self) -> tuple[CertificateRow, ...]:
        """The certificate rows of broken relations."""
        return tuple(row for row in self.certificate if row.state is RelationState.BROKEN)

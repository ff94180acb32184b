"""What a person is told about profiled days: plain values that a table or a picture is made of.

Only the shapes. How they are computed is in `profiling`, how they look in `report`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from prefect_wix.planning.windows import Window

__all__ = [
    "NO_DEVICE",
    "CertificateRow",
    "DeviceDay",
    "FlowCount",
    "FunnelStepCount",
    "KindCount",
    "ProfileSummary",
    "ReconciliationRow",
    "RelationState",
]

NO_DEVICE = "unknown"
"""What stands for the device of a session whose device is not known."""


class RelationState(StrEnum):
    """What is known of a relation between the segments of a day."""

    HELD = "held"
    """The landed ids obey it."""
    BROKEN = "broken"
    """Some ids contradict it. Wix documents none of the relations, so this is a finding first."""
    NOT_TESTABLE = "not testable"
    """A segment it speaks of is not landed, or what is landed is no evidence."""


@dataclass(frozen=True)
class FunnelStepCount:
    """How many sessions are known to have reached a step of the conversion funnel."""

    step: str
    """One of `prefect_wix.client.models.FunnelStep`."""
    sessions: int


@dataclass(frozen=True)
class DeviceDay:
    """How many sessions of a local day were on a device."""

    day: date
    device: str
    """DESKTOP, MOBILE, TABLET or `NO_DEVICE`."""
    sessions: int


@dataclass(frozen=True)
class FlowCount:
    """How many sessions followed a navigation flow."""

    flow: str
    """The name it was given, or else its segment key."""
    sessions: int
    days: int
    """On how many of the days it is landed."""


@dataclass(frozen=True)
class KindCount:
    """How many sessions are regular, or odd in one way."""

    kind: str
    """One of `prefect_wix.profiles.expressions.Kind`."""
    sessions: int


@dataclass(frozen=True)
class CertificateRow:
    """What became of one relation on one local day."""

    day: date
    relation: str
    """Its short name, such as ``devices_make_all``."""
    description: str
    """The relation as a person reads it, such as ``DESKTOP + MOBILE + TABLET = ALL``."""
    state: RelationState
    sessions: int
    """Ids that were compared."""
    exceptions: int
    """Ids that contradict it; of ``days_tile`` those that a neighbouring day lists too."""
    examples: tuple[str, ...] = ()
    """Up to five of them."""
    missing: tuple[str, ...] = ()
    """The segments it was not testable for, each with the reason where it is landed."""


@dataclass(frozen=True)
class ReconciliationRow:
    """What is landed of one local day, beside Wix's own count of sessions."""

    day: date
    landed: int
    counted: int
    """Wix's TOTAL_SESSIONS."""
    ratio: float | None
    """Landed to counted; None where Wix counted none."""
    trend: float | None
    """The ratio less the mean ratio of the seven days before it; None where there are none."""


@dataclass(frozen=True)
class ProfileSummary:
    """Everything a picture of some profiled days needs."""

    site_id: str
    window: Window
    """The local days, and their zone."""
    computed_at: datetime
    """In UTC."""
    sessions: int
    """Rows of ``wix_sessions``: a session on two days counts on both."""
    funnel: tuple[FunnelStepCount, ...]
    """The widest step first; empty where no funnel step is landed."""
    devices: tuple[DeviceDay, ...]
    """By day, then device; without days that have no session."""
    flows: tuple[FlowCount, ...]
    kinds: tuple[KindCount, ...]
    certificate: tuple[CertificateRow, ...]
    """By day, then relation, for every day of the window."""
    reconciliation: tuple[ReconciliationRow, ...]
    """By day, for the days that Wix still keeps counts of; empty where it told none."""

    @property
    def timezone(self) -> str:
        """The IANA zone that the days are counted in."""
        return self.window.timezone

    @property
    def states(self) -> Counter[RelationState]:
        """How many relations held, broke and could not be tested."""
        return Counter(row.state for row in self.certificate)

    @property
    def broken(self) -> tuple[CertificateRow, ...]:
        """The relations that some ids contradict."""
        return tuple(row for row in self.certificate if row.state is RelationState.BROKEN)

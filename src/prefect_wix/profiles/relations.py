"""Relations that the segments of a day are expected to satisfy, and the certificate of a day.

Wix documents none of these relations. Pure functions over segment keys and receipts. A condition is
SQL over one boolean per segment: whether the segment lists an ID. The statements that count are in
`steps`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

from prefect_wix.client.models import FunnelStep
from prefect_wix.planning.segments import ALL_SESSIONS, DEVICES, Segment
from prefect_wix.profiles.days import LandedDay
from prefect_wix.profiles.summary import CertificateRow, RelationState

STEPS = tuple(FunnelStep)
"""The steps of the conversion funnel, widest first."""
SITE_SESSIONS = Segment(funnel_include=FunnelStep.SITE_SESSIONS).key


@dataclass(frozen=True)
class Relation:
    """A relation between segments."""

    name: str
    description: str
    """The relation as text, such as ``DESKTOP + MOBILE + TABLET = ALL``."""
    members: tuple[str, ...]
    """Keys of the segments that the relation compares."""
    contradiction: str
    """Condition of a contradicting ID; ``{0}`` stands for whether the first member lists the ID."""

    def contradicted(self, listed: Mapping[str, str]) -> str:
        """The condition that an ID contradicts the relation, given each segment's condition."""
        return self.contradiction.format(*(listed[member] for member in self.members))

    def compared(self, listed: Mapping[str, str]) -> str:
        """The condition that the relation applies to an ID."""
        return " OR ".join(listed[member] for member in self.members) or "TRUE"


ON_TWO_DAYS = "o.session_id IS NOT NULL"
"""Condition that a neighbouring day lists an ID too."""
DAYS_TILE = Relation("days_tile", "every day of the window is landed", (), ON_TWO_DAYS)
"""The only relation about the window; it compares no segments."""

_DEVICES = Relation(
    "devices_make_all",
    "DESKTOP + MOBILE + TABLET = ALL",
    (*(device.key for device in DEVICES), ALL_SESSIONS.key),
    "({0} AND {1}) OR ({0} AND {2}) OR ({1} AND {2}) OR ({0} OR {1} OR {2}) <> {3}",
)
_SITE_SESSIONS = Relation(
    "site_sessions_are_all",
    f"{FunnelStep.SITE_SESSIONS} = ALL",
    (SITE_SESSIONS, ALL_SESSIONS.key),
    "{0} <> {1}",
)


def relations(segments: Iterable[str]) -> Iterator[Relation]:
    """The relations of a day: those of every day, and one for each landed exclusion."""
    yield from (DAYS_TILE, _DEVICES, _SITE_SESSIONS)
    for outer, inner in pairwise(STEPS):
        yield Relation(
            f"{inner.lower()}_within_{outer.lower()}",
            f"{inner} within {outer}",
            (_reached(inner), _reached(outer)),
            "{0} AND NOT {1}",
        )
    for key in sorted(segments):
        missed = Segment.parse(key).funnel_exclude
        if missed is not None:
            reached = Segment.parse(key).funnel_include or FunnelStep.SITE_SESSIONS
            members = (key, _reached(reached), _reached(missed))
            description = f"{reached} less {missed} = {key.partition('=')[2]}"
            yield Relation(key, description, members, "{0} <> ({1} AND NOT {2})")


def _reached(step: FunnelStep) -> str:
    return Segment(funnel_include=step).key


class Findings:
    """Counts and examples by local day and relation name.

    Attributes:
        compared: the number of IDs that the relation applies to.
        exceptions: the number of IDs that contradict it.
        examples: some of the exceptions.
    """

    def __init__(self) -> None:
        self.compared: defaultdict[tuple[date, str], int] = defaultdict(int)
        self.exceptions: defaultdict[tuple[date, str], int] = defaultdict(int)
        self.examples: defaultdict[tuple[date, str], list[str]] = defaultdict(list)


def certify(day: date, landed: LandedDay, findings: Findings) -> Iterator[CertificateRow]:
    """Yield the certificate row of each relation of a local day."""
    for relation in relations(landed.receipts):
        key, what = (day, relation.name), (day, relation.name, relation.description)
        missing = tuple(filter(None, map(landed.why_untestable, relation.members)))
        if missing:
            yield CertificateRow(*what, RelationState.NOT_TESTABLE, 0, 0, missing=missing)
            continue
        exceptions = findings.exceptions[key]
        # An ID on two days is no error, but a day without receipts is one.
        held = bool(landed.receipts) if relation is DAYS_TILE else not exceptions
        state = RelationState.HELD if held else RelationState.BROKEN
        examples = tuple(findings.examples[key])
        yield CertificateRow(*what, state, findings.compared[key], exceptions, examples)

"""Certificate rows of a day, from counts made in the warehouse. Pure functions.

The relations are in `relations`; the SQL that counts is in `steps`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import date

from prefect_wix.profiles.days import LandedDay
from prefect_wix.profiles.relations import DAYS_TILE, Relation, relations
from prefect_wix.profiles.summary import CertificateRow, RelationState


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
    state = RelationState.HELD if landed.receipts else RelationState.BROKEN
    yield _tested(day, DAYS_TILE, state, findings)
    for relation in relations(landed.receipts):
        missing = tuple(filter(None, map(landed.why_untestable, relation.members)))
        yield (
            _not_testable(day, relation, missing)
            if missing
            else _tested(day, relation, _state(day, relation, findings), findings)
        )


def _state(day: date, relation: Relation, findings: Findings) -> RelationState:
    broken = findings.exceptions[day, relation.name]
    return RelationState.BROKEN if broken else RelationState.HELD


def _not_testable(day: date, relation: Relation, missing: tuple[str, ...]) -> CertificateRow:
    return CertificateRow(
        day, relation.name, relation.description, RelationState.NOT_TESTABLE, 0, 0, missing=missing
    )


def _tested(
    day: date, relation: Relation, state: RelationState, findings: Findings
) -> CertificateRow:
    key = day, relation.name
    return CertificateRow(
        day,
        relation.name,
        relation.description,
        state,
        sessions=findings.compared[key],
        exceptions=findings.exceptions[key],
        examples=tuple(findings.examples[key]),
    )

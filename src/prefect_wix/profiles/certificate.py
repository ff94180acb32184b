"""From what was counted in the warehouse to what is certified of a day. Pure functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import date

from prefect_wix.profiles.days import LandedDay
from prefect_wix.profiles.relations import DAYS_TILE, Relation, relations
from prefect_wix.profiles.summary import CertificateRow, RelationState

__all__ = ["Findings", "certify"]


class Findings:
    """What was counted, by day and name of the relation."""

    def __init__(self) -> None:
        self.compared: defaultdict[tuple[date, str], int] = defaultdict(int)
        self.exceptions: defaultdict[tuple[date, str], int] = defaultdict(int)
        self.examples: defaultdict[tuple[date, str], list[str]] = defaultdict(list)


def certify(day: date, landed: LandedDay, findings: Findings) -> Iterator[CertificateRow]:
    """What became of every relation on a day."""
    tiles = RelationState.HELD if landed.receipts else RelationState.BROKEN
    yield _counted(day, DAYS_TILE, tiles, findings)
    for relation in relations(landed.receipts):
        lacking = tuple(filter(None, map(landed.lacking, relation.members)))
        yield (
            _not_testable(day, relation, lacking)
            if lacking
            else _counted(day, relation, _state(day, relation, findings), findings)
        )


def _state(day: date, relation: Relation, findings: Findings) -> RelationState:
    broken = findings.exceptions[day, relation.name]
    return RelationState.BROKEN if broken else RelationState.HELD


def _not_testable(day: date, relation: Relation, lacking: tuple[str, ...]) -> CertificateRow:
    return CertificateRow(
        day, relation.name, relation.description, RelationState.NOT_TESTABLE, 0, 0, missing=lacking
    )


def _counted(
    day: date, relation: Relation, state: RelationState, findings: Findings
) -> CertificateRow:
    at = day, relation.name
    return CertificateRow(
        day,
        relation.name,
        relation.description,
        state,
        sessions=findings.compared[at],
        exceptions=findings.exceptions[at],
        examples=tuple(findings.examples[at]),
    )

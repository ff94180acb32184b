"""Certificate rows of a day, from counts made in the warehouse. Pure functions.

The relations are in `relations`; the SQL that counts is in `steps`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import date

from prefect_wix.profiles.days import LandedDay
from prefect_wix.profiles.relations import DAYS_TILE, relations
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

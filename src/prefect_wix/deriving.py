"""The ids of a derived segment, from the answers it follows from.

Answers are read in order and side by side, so that ten million ids need no more memory than a
thousand. Which segments follow from which is said in `prefect_wix.cover`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import groupby, islice
from operator import itemgetter

from prefect_wix.cover import Derivation
from prefect_wix.errors import RelationBrokenError
from prefect_wix.spool import BATCH_SIZE, Spool

__all__ = ["derive"]

_EXAMPLES = 3


def derive(derivation: Derivation, answers: Mapping[str, Spool]) -> Spool:
    """The ids that belong to the derived segment, in a spool that is the caller's to close.

    An id belongs to it where it is in one more of the added answers than of those taken away, and
    does not where it is in as many. Any other count shows that the relation does not hold.
    It need not show: see `Derivation`. Blocks until it is done.

    Args:
        derivation: which answers to add and to take away.
        answers: the complete ids of each of its sources, by segment key; left as they are.

    Raises:
        RelationBrokenError: the answers contradict the derivation; nothing is derived.
        SpoolError: the local disk could not hold the ids.
    """
    with ExitStack() as undo:
        spool = undo.enter_context(Spool())
        members = _members(derivation, answers)
        while batch := list(islice(members, BATCH_SIZE)):
            spool.add(batch)
        undo.pop_all()
    return spool


def _members(derivation: Derivation, answers: Mapping[str, Spool]) -> Iterator[str]:
    wrong = []
    for session_id, count in _counts(derivation, answers):
        if count == 1:
            yield session_id
        elif count != 0:
            wrong.append(session_id)
        if len(wrong) == _EXAMPLES:
            break
    if wrong:
        raise _broken(derivation, tuple(wrong))


def _counts(derivation: Derivation, answers: Mapping[str, Spool]) -> Iterator[tuple[str, int]]:
    """Every id, with the answers that add it less those that take it away."""
    signed = [
        *(_signed(answers[key], 1) for key in derivation.plus),
        *(_signed(answers[key], -1) for key in derivation.minus),
    ]
    for session_id, same in groupby(heapq.merge(*signed), key=itemgetter(0)):
        yield session_id, sum(sign for _, sign in same)


def _signed(spool: Spool, sign: int) -> Iterator[tuple[str, int]]:
    return ((session_id, sign) for batch in spool.batches() for session_id in batch)


def _broken(derivation: Derivation, examples: tuple[str, ...]) -> RelationBrokenError:
    return RelationBrokenError(
        f"{derivation.segment} does not follow from {derivation.expression}: Wix lists ids such as "
        f"{', '.join(examples)} where they can not be. Nothing of it is used; ask Wix for "
        f"{derivation.segment} itself.",
        segment=derivation.segment,
        expression=derivation.expression,
        examples=examples,
    )

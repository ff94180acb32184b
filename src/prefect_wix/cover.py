"""Which segments to ask for, so that the other wanted ones follow by sums and differences.

Wix documents none of the relations this rests on: a session is on exactly one of the three
devices, ALL and SITE_SESSIONS are every session, and a funnel step is reached only through the
steps before it. Under them the sets "reached step k" lie inside one another, and so do "not on a
desktop" and "on neither desktop nor mobile". Take these sets as the nodes of a graph: then a
device or funnel segment is what lies between two of them, an edge, and it follows from other
segments where they make a path between its ends. What to ask for is a Steiner forest on eight
nodes. Navigation flows, and funnels that would be empty under the relations, are no edges.

Pure functions over segment keys and expected sizes; `prefect_wix.deriving` does the sums.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, pairwise
from typing import NamedTuple, Self, TypeVar

from prefect_wix.models import PAGE_LIMIT, FunnelStep
from prefect_wix.segments import ALL_SESSIONS, DEVICES, Segment

__all__ = ["Cover", "Derivation", "cheapest_cover", "other_paths", "proving_paths"]

_T = TypeVar("_T")
_Node = str | None
_Nodes = frozenset[_Node]

_STEPS = tuple(FunnelStep)
_EVERYBODY = _STEPS[0]
_NOBODY = None
_BY_DEVICE = (_EVERYBODY, "not on a desktop", "on neither desktop nor mobile", _NOBODY)
_NODES = frozenset({*_STEPS, *_BY_DEVICE})


class _Edge(NamedTuple):
    """A segment: the sessions that are in the set of one node and not in the one inside it."""

    place: int
    """Where it stands in `_EDGES`, which settles every tie."""
    key: str
    outer: _Node
    inner: _Node


_Path = list[tuple[int, _Edge]]
"""Edges from one node to another: 1 where the path goes inwards, -1 where it goes outwards."""
_Prices = Mapping[_Edge, tuple[int, int]]
"""The requests that each edge costs, and 1 where nobody wanted it; the cheapest first."""


def _all_edges() -> Iterator[tuple[str, _Node, _Node]]:
    """ALL, the devices, and the funnel from its far end."""
    yield ALL_SESSIONS.key, _EVERYBODY, _NOBODY
    for device, (outer, inner) in zip(DEVICES, pairwise(_BY_DEVICE), strict=True):
        yield device.key, outer, inner
    for at, step in reversed([*enumerate(_STEPS, start=1)]):
        for later in (*_STEPS[at:], _NOBODY):
            yield from ((segment.key, step, later) for segment in _between(step, later))


def _between(step: FunnelStep, later: FunnelStep | None) -> Iterator[Segment]:
    """The filters for sessions that reached a step and not a later one."""
    if step is _EVERYBODY and later:
        yield Segment(funnel_exclude=later)
    yield Segment(funnel_include=step, funnel_exclude=later)


def _exclusions(key: str) -> int:
    return key.count("-")


# Filters without an exclusion come first, and ALL before all: where a relation does not hold,
# that shows most often in what is derived from them, and the least is lost.
_EDGES = {
    edge[0]: _Edge(place, *edge)
    for place, edge in enumerate(sorted(_all_edges(), key=lambda edge: _exclusions(edge[0])))
}


@dataclass(frozen=True)
class Derivation:
    """How one segment follows from others. ``str()`` is for a person.

    An id belongs to the segment where it is in one more of ``plus`` than of ``minus``. That rests
    on relations that Wix does not document, and not every breach of them shows: a session on no
    device lands in a TABLET derived from ALL, and is missing from an ALL derived from devices.
    """

    segment: str
    """The key of the segment that follows."""
    plus: tuple[str, ...]
    """The keys of the segments that are added,"""
    minus: tuple[str, ...] = ()
    """and of those that are taken away."""

    @classmethod
    def parse(cls, segment: str, expression: str) -> Self:
        """The derivation of a segment that has this expression.

        Raises:
            ValueError: it is no expression, or the segment does not follow from it.
        """
        terms = expression.split(" ")
        plus, minus = (tuple(term[1:] for term in terms if term[:1] == sign) for sign in "+-")
        derivation = cls(segment, plus, minus)
        if derivation.expression == expression and _adds_up(derivation):
            return derivation
        raise ValueError(
            f"{segment!r} does not follow from {expression!r}. Write it as device_type=TABLET "
            "follows from '+device_type=ALL -device_type=DESKTOP -device_type=MOBILE'."
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys of the segments that it needs."""
        return self.plus + self.minus

    @property
    def expression(self) -> str:
        """A stable text: ``+device_type=ALL -device_type=DESKTOP -device_type=MOBILE``."""
        return " ".join([*(f"+{key}" for key in self.plus), *(f"-{key}" for key in self.minus)])

    def __str__(self) -> str:
        minus = "".join(f" - {_name(key)}" for key in self.minus)
        return f"{_name(self.segment)} = {' + '.join(map(_name, self.plus))}{minus}"


def _name(key: str) -> str:
    kind, _, value = key.partition("=")
    return value if kind == "device_type" else f"({value})"


def _adds_up(derivation: Derivation) -> bool:
    """Whether all nodes cancel out but the segment's own, so that the sum is the segment."""
    if not _EDGES.keys() >= {derivation.segment, *derivation.sources}:
        return False
    plus = [_EDGES[key] for key in derivation.plus]
    minus = [_EDGES[key] for key in (*derivation.minus, derivation.segment)]
    outer = Counter([*(edge.outer for edge in plus), *(edge.inner for edge in minus)])
    inner = Counter([*(edge.inner for edge in plus), *(edge.outer for edge in minus)])
    return outer == inner


@dataclass(frozen=True)
class Cover:
    """What to ask Wix for, and what follows from it."""

    asked: tuple[str, ...]
    """The keys of the segments to ask for; those that nobody wanted stand last."""
    derived: tuple[Derivation, ...]
    """How each other wanted segment follows from them."""
    requests: int
    """How many requests the asked segments are expected to take,"""
    instead_of: int
    """and how many all the wanted ones would take."""

    @property
    def why(self) -> str:
        """Why this is asked, in one sentence for a person."""
        if not self.derived:
            return f"Every segment is asked for: {self.requests} requests."
        derived = "; ".join(map(str, self.derived))
        return f"{derived}: {self.requests} requests instead of {self.instead_of}."


def cheapest_cover(wanted: Sequence[str], sizes: Mapping[str, float]) -> Cover:
    """The segments to ask for, with the fewest requests, so that all wanted ones are known.

    A segment takes one submit, and one request for each page of 1,000 ids. Of equally cheap covers
    it is one with the fewest segments that nobody wanted, then with ALL and few exclusions. The
    relations it rests on are not documented by Wix.

    Args:
        wanted: segment keys.
        sizes: how many ids to expect of a segment, by its key. One that is not given is what
            follows from the others; where nothing does, the size of ALL; else the largest there is.
    """
    keys = list(dict.fromkeys(wanted))
    requests = {key: _requests(size) for key, size in _expected_sizes(keys, sizes).items()}
    demand = [_EDGES[key] for key in keys if key in _EDGES]
    chosen = _cheapest_forest(_join(demand)[1], _prices(requests, keys))
    derived = [edge for edge in demand if edge not in chosen]
    asked = [key for key in keys if _EDGES.get(key) not in derived]
    asked += [edge.key for edge in sorted(chosen) if edge.key not in keys]
    return Cover(
        asked=tuple(asked),
        derived=tuple(way for edge in derived for way in _derivations(edge, chosen)),
        requests=sum(requests[key] for key in asked),
        instead_of=sum(requests[key] for key in keys),
    )


def other_paths(
    segment: str, without: Collection[str], sizes: Mapping[str, float]
) -> list[Derivation]:
    """At most two ways to derive a segment that Wix fails to list, the better one first.

    Adding up is better than taking away; then few exclusions are better than many; then it is the
    better, the smaller its largest segment is. The second way shares as few segments with the
    first as can be, so that it means most if both give the same ids.

    Args:
        segment: its key. Neither it nor another filter for the same sessions is used.
        without: keys of other segments not to use.
        sizes: as for `cheapest_cover`.

    Returns:
        Nothing for a navigation flow, or where too much is left out.
    """
    target = _EDGES.get(segment)
    if target is None:
        return []
    usable = [e for e in _EDGES.values() if e[2:] != target[2:] and e.key not in without]
    expected = _expected_sizes((), sizes)
    ways = sorted(_derivations(target, usable), key=lambda way: _rank(way, expected))
    return ways[:1] + sorted(ways[1:], key=lambda way: _shared(way, ways[0]))[:1]


def proving_paths(segment: str) -> list[Derivation]:
    """Two ways to derive a segment that no session can fool alike, whatever relations it breaks.

    So where both give the same ids, these are the segment's. Only ALL is known to have them: by
    device, and by a filter and its own exclusion, which are all sessions whatever else holds. Ways
    to a funnel segment may share nothing and yet err alike: both lose one that was converted and
    never reached the steps before.

    Returns:
        Two ways with no source in common, or nothing.
    """
    return other_paths(segment, (), {}) if segment == ALL_SESSIONS.key else []


def _rank(way: Derivation, sizes: Mapping[str, float]) -> tuple[float, ...]:
    largest = max(sizes[key] for key in way.sources)
    places = sorted((_EDGES[key].place for key in way.sources), reverse=True)
    return len(way.minus), sum(map(_exclusions, way.sources)), largest, *places


def _shared(one: Derivation, other: Derivation) -> int:
    return len({*one.sources} & {*other.sources})


def _requests(size: float) -> int:
    return 1 + max(1, math.ceil(size / PAGE_LIMIT))


def _expected_sizes(wanted: Iterable[str], sizes: Mapping[str, float]) -> dict[str, float]:
    """A size for every edge and every wanted segment."""
    known = [edge for edge in _EDGES.values() if edge.key in sizes]
    # The smaller a segment is, the less of its error goes into what follows from it.
    smallest, _ = _join(sorted(known, key=lambda edge: sizes[edge.key]))
    follows = {
        edge.key: sum(sign * sizes[step.key] for sign, step in path)
        for edge in _EDGES.values()
        for path in _paths(smallest, edge.outer, edge.inner)
    }
    expected = follows | dict(sizes)
    # Too low a guess would replace what is known by what is not.
    rest = expected.get(ALL_SESSIONS.key, max([PAGE_LIMIT, *expected.values()]))
    return {key: expected.get(key, rest) for key in (*_EDGES, *wanted)}


def _prices(requests: Mapping[str, int], wanted: Collection[str]) -> _Prices:
    prices = {edge: (requests[key], int(key not in wanted)) for key, edge in _EDGES.items()}
    return dict(sorted(prices.items(), key=lambda item: item[1]))


def _cheapest_forest(groups: Sequence[_Nodes], prices: _Prices) -> list[_Edge]:
    """The cheapest edges that join the nodes of each group; a tree may serve several groups."""
    if not groups:
        return []
    first, *rest = groups
    forests = (
        _cheapest_tree(first.union(*joined), prices)
        + _cheapest_forest([group for group in rest if group not in joined], prices)
        for joined in _subsets(rest)
    )
    return min(forests, key=lambda edges: _total(edges, prices))


def _cheapest_tree(nodes: _Nodes, prices: _Prices) -> list[_Edge]:
    """The cheapest edges that join some nodes, by way of others where that costs less."""
    spans = (nodes.union(others) for others in _subsets(_NODES - nodes))
    joins = (_join(edge for edge in prices if {*edge[2:]} <= span) for span in spans)
    trees = (edges for edges, joined in joins if any(nodes <= group for group in joined))
    return min(trees, key=lambda edges: _total(edges, prices))


def _total(edges: list[_Edge], prices: _Prices) -> tuple[list[int], list[_Edge]]:
    return [sum(part) for part in zip(*map(prices.__getitem__, edges), strict=True)], sorted(edges)


def _subsets(items: Collection[_T]) -> Iterator[tuple[_T, ...]]:
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))


def _join(edges: Iterable[_Edge]) -> tuple[list[_Edge], list[_Nodes]]:
    """The edges less those whose ends are joined by earlier ones, and the nodes they join."""
    taken: list[_Edge] = []
    joined: list[_Nodes] = []
    for edge in edges:
        ends = frozenset(edge[2:])
        if not any(ends <= group for group in joined):
            taken.append(edge)
            touched = [group for group in joined if group & ends]
            joined = [group for group in joined if not group & ends] + [ends.union(*touched)]
    return taken, joined


def _derivations(target: _Edge, edges: Iterable[_Edge]) -> Iterator[Derivation]:
    """Every way in which an edge follows from others."""
    for path in _paths([*edges], target.outer, target.inner):
        plus, minus = (sorted(edge for sign, edge in path if sign == way) for way in (1, -1))
        yield Derivation(
            target.key, tuple(edge.key for edge in plus), tuple(edge.key for edge in minus)
        )


def _paths(
    edges: Sequence[_Edge], start: _Node, end: _Node, passed: _Nodes = frozenset()
) -> Iterator[_Path]:
    """Every path from one node to another that passes none twice."""
    if start == end:
        yield []
        return
    for edge in edges:
        for sign, near, far in ((1, edge.outer, edge.inner), (-1, edge.inner, edge.outer)):
            if near == start and far not in passed:
                for path in _paths(edges, far, end, passed | {start}):
                    yield [(sign, edge), *path]

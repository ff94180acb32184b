"""What to ask for: never more than need be, and all that is wanted follows from it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime
from itertools import chain, combinations, compress, product
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_wix.cover import Cover, Derivation, cheapest_cover, other_paths, proving_paths
from prefect_wix.models import DeviceType, FunnelStep
from prefect_wix.sandbox import Session, World
from prefect_wix.sandbox.query import filter_sessions
from prefect_wix.segments import Segment
from prefect_wix.windows import Window

SRC = Path(__file__).parents[2] / "src"
WINDOW = Window(date(2024, 1, 1), date(2024, 1, 2), "UTC")
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)

# One session of every kind. What holds for each kind holds for every shop.
KINDS = World(
    Session(id=f"{device} {step}", arrival=NOON, end=NOON, device=device, depth=step)
    for device, step in product(["DESKTOP", "MOBILE", "TABLET"], FunnelStep)
)


def listed(key):
    """The kinds of session that the sandbox lists for a segment."""
    body = Segment.parse(key).query(WINDOW).to_wire()
    return {KINDS.ids[place] for place in filter_sessions(KINDS, body, range(len(KINDS)))}


NO_STEP_OR_ONE = (None, *FunnelStep)
SEGMENTS = [
    *(Segment(device_type=device).key for device in DeviceType),
    *(
        Segment(funnel_include=include, funnel_exclude=exclude).key
        for include, exclude in product(NO_STEP_OR_ONE, NO_STEP_OR_ONE)
        if include or exclude
    ),
]
EMPTY = [key for key in SEGMENTS if not listed(key)]
DERIVABLE = [key for key in SEGMENTS if listed(key)]

ALL, DESKTOP, MOBILE, TABLET = (
    f"device_type={device}" for device in ("ALL", "DESKTOP", "MOBILE", "TABLET")
)
DEVICES = [DESKTOP, MOBILE, TABLET]
SITE = "conversion_funnel=+SITE_SESSIONS"
VIEWED = "conversion_funnel=+VIEWED_PRODUCT"
NOT_VIEWED = "conversion_funnel=-VIEWED_PRODUCT"
CART = "conversion_funnel=+ADDED_TO_CART"
VIEWED_NO_CART = "conversion_funnel=+VIEWED_PRODUCT-ADDED_TO_CART"
FLOW = "navigation_flow=/{Homepage}>*>__DROP__"
FROM_ALL = Derivation(TABLET, (ALL,), (DESKTOP, MOBILE))
FROM_DEVICES = Derivation(ALL, (DESKTOP, MOBILE, TABLET))


def counted(derivation):
    """How often each kind of session is added, less how often it is taken away."""
    counts = Counter(chain.from_iterable(map(listed, derivation.plus)))
    counts.subtract(chain.from_iterable(map(listed, derivation.minus)))
    return counts


def is_true(derivation):
    counts = counted(derivation)
    members = {kind for kind, count in counts.items() if count == 1}
    return members == listed(derivation.segment) and set(counts.values()) <= {0, 1}


def requests(keys, sizes):
    return sum(1 + max(1, ceil(sizes[key] / 1000)) for key in keys)


def test_the_sandbox_lists_nothing_for_half_of_the_funnel_filters():
    """Reached the later step and not the earlier one: empty, where steps are nested."""
    assert len(EMPTY) == 16
    assert len(DERIVABLE) == 23


sizes_of_some = st.dictionaries(st.sampled_from(DERIVABLE), st.floats(0, 9_000), max_size=10)


@given(st.lists(st.sampled_from([*SEGMENTS, FLOW])), sizes_of_some)
@settings(max_examples=150, deadline=None)
def test_whatever_is_wanted_is_asked_for_or_truly_follows(wanted, sizes):
    cover = cheapest_cover(wanted, sizes)
    derived = [one.segment for one in cover.derived]
    assert len(cover.asked) == len(set(cover.asked))
    assert not set(cover.asked) & set(derived)
    assert set(wanted) <= {*cover.asked, *derived}
    assert set(derived) <= set(wanted)
    assert {*chain(*(one.sources for one in cover.derived))} <= {*cover.asked}
    assert all(map(is_true, cover.derived))
    assert cover.requests <= cover.instead_of


# A second planner, which knows nothing of graphs: a segment is a set of kinds, as bits; it follows
# from others if it is some sum of theirs. Sums without carry admit more than ours would.
BITS = {key: sum(1 << KINDS.ids.find(kind) for kind in listed(key)) for key in DERIVABLE}


def follow(wanted, asked):
    basis = []
    for key in asked:
        basis = [*basis, rest] if (rest := reduced(BITS[key], basis)) else basis
    return all(reduced(BITS[key], basis) == 0 for key in wanted)


def reduced(bits, basis):
    for one in basis:
        bits = min(bits, bits ^ one)
    return bits


def score(asked, wanted, sizes):
    return requests(asked, sizes), len({*asked} - {*wanted})


def brute_force(wanted, offered, sizes):
    """The best score of every choice of what is offered."""
    choices = chain.from_iterable(combinations(offered, n) for n in range(len(offered) + 1))
    return min(score(asked, wanted, sizes) for asked in choices if follow(wanted, asked))


FAR_TOO_LARGE = dict.fromkeys(DERIVABLE, 1e8)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_choice_of_segments_is_cheaper(data):
    """Of those worth asking for, every choice is tried; the rest costs too much by far."""
    offered = data.draw(st.lists(st.sampled_from(DERIVABLE), unique=True, min_size=1, max_size=9))
    wanted = data.draw(st.lists(st.sampled_from(offered), unique=True))
    pages = data.draw(st.lists(st.integers(1, 6), min_size=9, max_size=9))
    sizes = FAR_TOO_LARGE | {key: n * 1000 for key, n in zip(offered, pages, strict=False)}
    asked = cheapest_cover(wanted, sizes).asked
    assert score(asked, wanted, sizes) == brute_force(wanted, offered, sizes)


def test_no_choice_is_cheaper_in_a_real_shop():
    """Sizes that agree with each other, and the filters that a shop might want."""
    world = World.generate(sessions=20_000, days=1, end=WINDOW.end, timezone="UTC")
    offered = [ALL, *DEVICES, SITE, VIEWED, NOT_VIEWED, CART, VIEWED_NO_CART]
    offered += ["conversion_funnel=-ADDED_TO_CART"]
    sizes = FAR_TOO_LARGE | {
        key: len(
            filter_sessions(world, Segment.parse(key).query(WINDOW).to_wire(), range(len(world)))
        )
        for key in offered
    }
    for wanted in combinations(offered, 3):
        asked = cheapest_cover(wanted, sizes).asked
        assert score(asked, wanted, sizes) == brute_force(wanted, offered, sizes)


def test_the_third_device_follows_from_all_and_two():
    """In a small shop everything is a page; one of four jobs is saved."""
    cover = cheapest_cover([ALL, *DEVICES], dict.fromkeys([ALL, *DEVICES], 300))
    assert cover == Cover((ALL, DESKTOP, MOBILE), (FROM_ALL,), requests=6, instead_of=8)
    assert cover.why == "TABLET = ALL - DESKTOP - MOBILE: 6 requests instead of 8."


def test_in_a_large_shop_it_is_the_largest_that_follows():
    sizes = {DESKTOP: 5_000, MOBILE: 12_000, TABLET: 3_000, ALL: 20_000}
    cover = cheapest_cover([TABLET, ALL, MOBILE, DESKTOP], sizes)
    assert cover == Cover((TABLET, MOBILE, DESKTOP), (FROM_DEVICES,), 6 + 17, 6 + 17 + 21)
    assert cover.why == "ALL = DESKTOP + MOBILE + TABLET: 23 requests instead of 44."


def test_nested_steps_are_told_apart_by_differences():
    sizes = {VIEWED: 9_000, VIEWED_NO_CART: 7_000, CART: 2_000}
    cover = cheapest_cover([VIEWED, VIEWED_NO_CART, CART], sizes)
    assert cover.asked == (VIEWED_NO_CART, CART)
    assert [str(one) for one in cover.derived] == [
        "(+VIEWED_PRODUCT) = (+ADDED_TO_CART) + (+VIEWED_PRODUCT-ADDED_TO_CART)"
    ]


def test_a_small_list_that_nobody_wanted_replaces_a_large_one():
    """Those who viewed nothing are few: with them, one of two large lists is enough."""
    sizes = {ALL: 20_000, VIEWED: 17_000, NOT_VIEWED: 3_000}
    cover = cheapest_cover([ALL, VIEWED], sizes)
    assert cover.asked == (VIEWED, NOT_VIEWED)
    assert cover.derived == (Derivation(ALL, (VIEWED, NOT_VIEWED)),)
    assert (cover.requests, cover.instead_of) == (18 + 4, 21 + 18)


def test_two_lists_that_nobody_wanted_may_replace_one():
    """Only where sizes do not agree, as those of different days may not: the parts are smaller."""
    cover = cheapest_cover([VIEWED], {VIEWED: 17_000, ALL: 9_000, NOT_VIEWED: 3_000})
    assert cover.asked == (ALL, NOT_VIEWED)
    assert cover.derived == (Derivation(VIEWED, (ALL,), (NOT_VIEWED,)),)
    assert cheapest_cover([VIEWED], {VIEWED: 12_000, ALL: 9_000, NOT_VIEWED: 3_000}).derived == ()


@pytest.mark.parametrize(
    ("one", "twin"),
    [
        (ALL, SITE),
        (NOT_VIEWED, "conversion_funnel=+SITE_SESSIONS-VIEWED_PRODUCT"),
    ],
)
def test_two_filters_for_the_same_sessions_are_asked_for_once(one, twin):
    cover = cheapest_cover([twin, one], {})
    assert cover.asked == (one,)
    assert cover.derived == (Derivation(twin, (one,)),)


@pytest.mark.parametrize("key", [FLOW, *EMPTY])
def test_what_has_no_relation_is_always_asked_for(key):
    """Navigation flows; and funnels that should be empty, which only Wix can say."""
    sizes = {key: 90_000, ALL: 10}
    assert cheapest_cover([key, *DEVICES, ALL], sizes).asked[0] == key
    assert other_paths(key, (), sizes) == []


def test_nothing_wanted_is_nothing_asked():
    assert cheapest_cover([], {ALL: 5}) == Cover((), (), 0, 0)


def test_a_wanted_segment_is_asked_for_unless_that_costs_more():
    cover = cheapest_cover([MOBILE, MOBILE, FLOW], {})
    assert (cover.asked, cover.derived) == ((MOBILE, FLOW), ())
    assert cover.why == "Every segment is asked for: 4 requests."


def test_a_missing_size_is_what_follows_from_the_others():
    """TABLET is known to be small through the three others."""
    sizes = {ALL: 20_000, DESKTOP: 5_000, MOBILE: 14_000}
    assert cheapest_cover([TABLET], sizes).requests == 2
    assert cheapest_cover([ALL, *DEVICES], sizes).derived == (FROM_DEVICES,)
    assert cheapest_cover([TABLET], sizes | {ALL: 10_000}).requests == 2


def test_where_nothing_follows_a_size_is_as_large_as_it_may_be():
    """So that what is known is never replaced by what is not."""
    assert cheapest_cover([FLOW], {ALL: 5_000, "navigation_flow=*": 9_000}).requests == 6
    assert cheapest_cover([CART], {ALL: 5_000}).requests == 6
    assert cheapest_cover([VIEWED], {VIEWED: 17_000}).asked == (VIEWED,)
    assert cheapest_cover([CART], {VIEWED: 7_000}).requests == 8
    assert cheapest_cover([CART], {}).requests == 2


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ([VIEWED_NO_CART, CART, VIEWED], Derivation(VIEWED_NO_CART, (VIEWED,), (CART,))),
        ([NOT_VIEWED, VIEWED, ALL], Derivation(NOT_VIEWED, (ALL,), (VIEWED,))),
        ([*DEVICES, ALL], FROM_ALL),
    ],
)
def test_among_equals_the_plain_filters_are_asked_for(wanted, told):
    """So a broken relation shows: an id that only ALL lists, or that is only in the cart."""
    assert cheapest_cover(wanted, {}).derived == (told,)


def test_the_same_question_has_the_same_answer_in_every_process():
    """Sets have another order in each; a retry must not plan something else."""
    code = """
from prefect_wix.cover import _EDGES, cheapest_cover, other_paths
for key in _EDGES:
    print(cheapest_cover([key], dict.fromkeys(_EDGES, 500) | {key: 50_000}))
    print(cheapest_cover([*_EDGES][::3], {key: 50_000}))
    print(other_paths(key, (), {}))
"""
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(SRC), "PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(4)
    }
    assert len(answers) == 1


@pytest.mark.parametrize("key", DERIVABLE)
@given(st.lists(st.sampled_from(DERIVABLE), max_size=6), sizes_of_some)
@settings(max_examples=10, deadline=None)
def test_every_other_path_is_true_and_goes_around_what_fails(key, without, sizes):
    paths = other_paths(key, without, sizes)
    assert len({*paths}) == len(paths) <= 2
    for path in paths:
        assert path.segment == key
        assert is_true(path)
        assert not {key, *without} & {*path.sources}
        assert all(listed(source) != listed(key) for source in path.sources)


@pytest.mark.parametrize("key", [key for key in DERIVABLE if key not in DEVICES])
def test_two_other_paths_of_the_funnel_share_nothing(key):
    """If they give the same ids all the same, that is some proof."""
    one, other = other_paths(key, (), {})
    assert not {*one.sources} & {*other.sources}


def test_a_day_is_split_by_device_and_by_funnel():
    one, other = other_paths(ALL, (), {})
    assert (one, other) == (FROM_DEVICES, Derivation(ALL, (VIEWED, NOT_VIEWED)))


# Every session that there could be where none of the relations holds: on any devices, at any steps.
ANYTHING = ["DESKTOP", "MOBILE", "TABLET", *FunnelStep]
SESSIONS = [
    frozenset(compress(ANYTHING, chosen)) for chosen in product((0, 1), repeat=len(ANYTHING))
]


def lists(key, session):
    """Whether a segment lists a session, going by what its filter says and nothing else."""
    segment = Segment.parse(key)
    if segment.device_type is not None:
        return segment.device_type is DeviceType.ALL or segment.device_type in session
    reached = segment.funnel_include is None or segment.funnel_include in session
    return reached and segment.funnel_exclude not in session


def told(way, session):
    """How often a way lists a session; it gives no ids at all where that is neither 0 nor 1."""
    plus, minus = (sum(lists(key, session) for key in keys) for keys in (way.plus, way.minus))
    return plus - minus


def fooled(segment, ways):
    """The sessions that all the ways agree on, and are wrong about."""
    return [
        session
        for session in SESSIONS
        for counts in [{told(way, session) for way in ways}]
        if counts in ({0}, {1}) and counts != {int(lists(segment, session))}
    ]


@pytest.mark.parametrize("key", DERIVABLE)
def test_no_session_fools_both_ways_that_prove_a_segment(key):
    """Whatever relations it breaks: what both say of it is true, or one shows that it is odd."""
    ways = proving_paths(key)
    assert not ways or fooled(key, ways) == []


def test_all_sessions_are_proven_by_device_and_by_funnel():
    assert proving_paths(ALL) == [FROM_DEVICES, Derivation(ALL, (VIEWED, NOT_VIEWED))]


def test_by_device_alone_a_session_on_none_would_be_lost():
    """That is what the other way is asked for."""
    assert frozenset({FunnelStep.SITE_SESSIONS}) in fooled(ALL, [FROM_DEVICES])


def test_two_ways_that_share_nothing_may_be_fooled_alike():
    """One that bought without a cart is lost by both, and would be gone in silence."""
    bought = "conversion_funnel=+SESSIONS_CONVERTED"
    ways = other_paths(bought, (), {})
    assert not {*ways[0].sources} & {*ways[1].sources}
    assert frozenset({FunnelStep.SITE_SESSIONS, FunnelStep.SESSIONS_CONVERTED}) in fooled(
        bought, ways
    )


def test_a_split_is_into_pieces_before_it_is_a_difference():
    """What is too large is not mended by something larger."""
    sizes = {VIEWED: 50_000, CART: 20_000, ALL: 60_000}
    one, other = other_paths(VIEWED, (), sizes)
    assert (one.minus, other.minus) == ((), ())
    assert one.sources == (CART, VIEWED_NO_CART)


def test_pieces_with_many_exclusions_are_better_than_a_difference():
    """Those in the cart are a larger list than those who did not pay."""
    one, other = other_paths("conversion_funnel=+ADDED_TO_CART-SESSIONS_CONVERTED", (), {})
    assert (one.minus, len(other.minus)) == ((), 1)


def test_a_device_can_only_be_told_from_all_and_the_others():
    one, other = other_paths(TABLET, (), {})
    assert one == FROM_ALL
    assert other == Derivation(TABLET, (SITE,), (DESKTOP, MOBILE))
    assert other_paths(TABLET, [MOBILE], {}) == []


def test_the_most_even_split_is_best():
    """Of three ways to cut in two those who viewed, it is the one with no large piece."""
    paid, checkout = "SESSIONS_CONVERTED", "REACHED_CHECKOUT"
    sizes = {VIEWED: 10_000, CART: 9_000, f"conversion_funnel=+{checkout}": 5_500}
    sizes[f"conversion_funnel=+{paid}"] = 1_000
    one, other = other_paths(VIEWED, (), sizes)
    assert one.plus[0] == f"conversion_funnel=+{checkout}"
    assert other.plus[0] in {CART, f"conversion_funnel=+{paid}"}


@pytest.mark.parametrize("key", DERIVABLE)
def test_an_expression_reads_back_as_its_derivation(key):
    for path in other_paths(key, (), {}):
        assert Derivation.parse(key, path.expression) == path


def test_an_expression_never_changes_its_form():
    """It lies in receipts."""
    expression = "+device_type=ALL -device_type=DESKTOP -device_type=MOBILE"
    assert FROM_ALL.expression == expression
    assert Derivation.parse(TABLET, expression) == FROM_ALL
    assert Derivation(VIEWED, (ALL,), (NOT_VIEWED,)).expression == (
        "+device_type=ALL -conversion_funnel=-VIEWED_PRODUCT"
    )


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "device_type=ALL",
        "+device_type=ALL",
        "+device_type=ALL -device_type=DESKTOP",
        "+device_type=ALL +device_type=DESKTOP -device_type=MOBILE",
        "-device_type=DESKTOP +device_type=ALL -device_type=MOBILE",
        "+device_type=ALL  -device_type=DESKTOP -device_type=MOBILE",
        "+device_type=ALL -device_type=DESKTOP -device_type=PHONE",
        "+device_type=ALL -device_type=DESKTOP -navigation_flow=*",
        "*device_type=ALL -device_type=DESKTOP -device_type=MOBILE",
    ],
)
def test_an_expression_that_is_none_or_does_not_add_up_is_refused(expression):
    with pytest.raises(ValueError, match="does not follow from"):
        Derivation.parse(TABLET, expression)


def test_nothing_is_derived_for_a_segment_without_relations():
    with pytest.raises(ValueError, match="does not follow from"):
        Derivation.parse(FLOW, "+device_type=ALL")

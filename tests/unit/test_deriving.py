"""Derived ids are those that Wix would list, or there are none."""

from __future__ import annotations

import gc
import pickle
import random
import tracemalloc
from contextlib import ExitStack
from datetime import UTC, date, datetime
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_wix.cover import Derivation, other_paths
from prefect_wix.deriving import derive
from prefect_wix.errors import ListingError, RelationBrokenError, SpoolError
from prefect_wix.models import FunnelStep
from prefect_wix.sandbox import Session, World
from prefect_wix.sandbox.query import filter_sessions
from prefect_wix.segments import Segment
from prefect_wix.spool import Spool
from prefect_wix.windows import Window

WINDOW = Window(date(2024, 1, 1), date(2024, 1, 2), "UTC")
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
ALL, DESKTOP, MOBILE, TABLET = (
    f"device_type={device}" for device in ("ALL", "DESKTOP", "MOBILE", "TABLET")
)
SITE = "conversion_funnel=+SITE_SESSIONS"
VIEWED = "conversion_funnel=+VIEWED_PRODUCT"
NOT_VIEWED = "conversion_funnel=-VIEWED_PRODUCT"
CART = "conversion_funnel=+ADDED_TO_CART"
NOT_IN_CART = "conversion_funnel=-ADDED_TO_CART"
VIEWED_NO_CART = "conversion_funnel=+VIEWED_PRODUCT-ADDED_TO_CART"
TABLET_FROM_ALL = Derivation(TABLET, (ALL,), (DESKTOP, MOBILE))
ALL_FROM_DEVICES = Derivation(ALL, (DESKTOP, MOBILE, TABLET))
DERIVABLE = [ALL, DESKTOP, MOBILE, TABLET, SITE, VIEWED, NOT_VIEWED, CART, VIEWED_NO_CART]


@pytest.fixture
def derived():
    """Derive from answers given as ids; every spool is closed in the end."""
    with ExitStack() as spools:

        def make(derivation, ids):
            answers = {
                key: spools.enter_context(spool_of(ids.get(key, ()))) for key in derivation.sources
            }
            return held(spools.enter_context(derive(derivation, answers)))

        yield make


def spool_of(ids):
    spool = Spool()
    spool.add([*ids])
    return spool


def held(spool):
    return [session_id for batch in spool.batches() for session_id in batch]


def listed(world, key):
    """What the sandbox lists for a segment."""
    body = Segment.parse(key).query(WINDOW).to_wire()
    return {world.ids[place] for place in filter_sessions(world, body, range(len(world)))}


sessions = st.builds(
    Session,
    id=st.text("abc😀é~", min_size=1, max_size=6),
    arrival=st.just(NOON),
    end=st.just(NOON),
    device=st.sampled_from(["DESKTOP", "MOBILE", "TABLET"]),
    depth=st.sampled_from(FunnelStep),
)


@given(
    st.lists(sessions, unique_by=lambda session: session.id, max_size=30),
    st.sampled_from(DERIVABLE),
)
@settings(max_examples=60, deadline=None)
def test_a_derived_segment_holds_what_would_be_listed(visits, key):
    """In every shop where the relations hold, by either path."""
    world = World(visits)
    for path in other_paths(key, (), {}):
        with ExitStack() as spools:
            answers = {
                one: spools.enter_context(spool_of(listed(world, one))) for one in path.sources
            }
            spool = spools.enter_context(derive(path, answers))
            assert held(spool) == sorted(listed(world, key), key=str.encode)
            assert len(spool) == len(listed(world, key))


@pytest.mark.parametrize("key", [ALL, TABLET, VIEWED_NO_CART])
def test_a_large_day_is_derived_to_the_same_digest(key, derived):
    """More ids than a batch holds: the receipt is the one that asking would give."""
    world = World.generate(sessions=30_000, days=1, end=WINDOW.end, timezone="UTC")
    for path in other_paths(key, (), {}):
        ids = {one: listed(world, one) for one in path.sources}
        with spool_of(derived(path, ids)) as one, spool_of(listed(world, key)) as other:
            assert one.digest() == other.digest()


def test_an_id_taken_away_between_two_that_add_it_belongs_once(derived):
    """Steps 1 to 3, less 2 to 3, and 2 to the end: only the sum counts."""
    path = Derivation(ALL, (VIEWED, NOT_IN_CART), (VIEWED_NO_CART,))
    ids = {NOT_IN_CART: ["here", "viewed"], VIEWED: ["viewed", "cart"], VIEWED_NO_CART: ["viewed"]}
    assert derived(path, ids) == ["cart", "here", "viewed"]


def test_the_answers_are_left_as_they_are():
    with spool_of(["a", "b"]) as every, spool_of(["a"]) as some:
        derive(Derivation(VIEWED, (ALL,), (NOT_VIEWED,)), {ALL: every, NOT_VIEWED: some}).close()
        assert (held(every), held(some)) == (["a", "b"], ["a"])


def test_nothing_follows_from_nothing(derived):
    assert derived(TABLET_FROM_ALL, {}) == []
    assert derived(TABLET_FROM_ALL, {ALL: "a", DESKTOP: "a"}) == []


@pytest.mark.parametrize(
    ("derivation", "ids", "examples"),
    [
        pytest.param(
            TABLET_FROM_ALL,
            {ALL: "abc", DESKTOP: "ab", MOBILE: "b"},
            ("b",),
            id="on two devices, taken away",
        ),
        pytest.param(
            ALL_FROM_DEVICES,
            {DESKTOP: "ab", MOBILE: "bc", TABLET: "d"},
            ("b",),
            id="on two devices, added",
        ),
        pytest.param(
            TABLET_FROM_ALL,
            {ALL: "ab", DESKTOP: "ax"},
            ("x",),
            id="on a device and not in ALL",
        ),
        pytest.param(
            Derivation(VIEWED_NO_CART, (VIEWED,), (CART,)),
            {VIEWED: "ab", CART: "bx"},
            ("x",),
            id="in the cart and never viewed",
        ),
        pytest.param(
            Derivation(ALL, (VIEWED, NOT_VIEWED)),
            {VIEWED: "ab", NOT_VIEWED: "ac"},
            ("a",),
            id="viewed and did not view",
        ),
        pytest.param(
            TABLET_FROM_ALL,
            {ALL: "a", DESKTOP: "vwxyz"},
            ("v", "w", "x"),
            id="three examples are enough",
        ),
    ],
)
def test_a_relation_that_does_not_hold_is_refused(derived, derivation, ids, examples):
    """With the segment, the path, and ids to look at."""
    with pytest.raises(RelationBrokenError) as caught:
        derived(derivation, ids)
    error = caught.value
    assert isinstance(error, ListingError)
    assert error.segment == derivation.segment
    assert error.expression == derivation.expression
    assert error.examples == examples
    for told in (derivation.segment, derivation.expression, *examples):
        assert told in str(error)


def test_a_refusal_survives_pickling(derived):
    with pytest.raises(RelationBrokenError) as caught:
        derived(TABLET_FROM_ALL, {DESKTOP: "x"})
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), vars(copy)) == (str(caught.value), vars(caught.value))


def test_a_refusal_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with ExitStack() as spools:
        answers = {key: spools.enter_context(spool_of("x")) for key in (DESKTOP, MOBILE, TABLET)}
        before = {*tmp_path.iterdir()}
        with pytest.raises(RelationBrokenError):
            derive(ALL_FROM_DEVICES, answers)
        assert {*tmp_path.iterdir()} == before
    assert [*tmp_path.iterdir()] == []


def test_a_session_on_no_device_goes_where_it_should_not(derived):
    """No count shows it, which is why deriving is for those who ask for it."""
    assert derived(TABLET_FROM_ALL, {ALL: "dm?", DESKTOP: "d", MOBILE: "m"}) == ["?"]
    assert derived(ALL_FROM_DEVICES, {DESKTOP: "d", MOBILE: "m"}) == ["d", "m"]


def test_two_paths_show_what_one_does_not(derived):
    """A session on no device is in one of two answers that should be equal."""
    by_device = derived(ALL_FROM_DEVICES, {DESKTOP: "d", MOBILE: "m"})
    by_funnel = derived(Derivation(ALL, (VIEWED, NOT_VIEWED)), {VIEWED: "m", NOT_VIEWED: "d?"})
    assert (by_device, by_funnel) == (["d", "m"], ["?", "d", "m"])


def test_an_answer_that_is_closed_is_told_as_such():
    with Spool() as closed:
        pass
    with pytest.raises(SpoolError):
        derive(Derivation(SITE, (ALL,)), {ALL: closed})


def test_memory_does_not_grow_with_the_ids():
    """100,000 ids less 50,000, and Python holds a batch of each; SQLite has its own cap."""
    draw = random.Random(1)
    with ExitStack() as spools:
        every, some = spools.enter_context(Spool()), spools.enter_context(Spool())
        for _ in range(100):
            page = [str(UUID(int=draw.getrandbits(128))) for _ in range(1000)]
            every.add(page)
            some.add(page[::2])
        gc.collect()
        tracemalloc.start()
        try:
            path = Derivation(VIEWED, (ALL,), (NOT_VIEWED,))
            with derive(path, {ALL: every, NOT_VIEWED: some}) as spool:
                _, peak = tracemalloc.get_traced_memory()
                assert len(spool) == 50_000
        finally:
            tracemalloc.stop()
    assert peak < 8 * 2**20

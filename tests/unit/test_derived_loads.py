"""Partitions put together from others: exact, on record as such, or asked for after all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from urllib.parse import quote

import pytest

from prefect_wix.client import ApiKeyAuth, WixClient
from prefect_wix.cover import Derivation
from prefect_wix.loading import LoadOptions, load_partitions
from prefect_wix.pace import Patience
from prefect_wix.partitions import Ask, AskState, Partition, Receipt
from prefect_wix.plan import (
    Reason,
    Refresh,
    RefreshPolicy,
    cover_cheaply,
    make_plan,
    partitions_of,
)
from prefect_wix.sandbox import Fault, Session, World, running
from prefect_wix.segments import Segment
from prefect_wix.warehouse import open_warehouse
from prefect_wix.windows import Window

ZONE = "Asia/Jerusalem"
DAYS = [date(2024, 3, day) for day in range(1, 4)]
RANGE = Window(DAYS[0], DAYS[-1] + timedelta(1), ZONE)
ALL, DESKTOP, MOBILE, TABLET = (
    f"device_type={name}" for name in ("ALL", "DESKTOP", "MOBILE", "TABLET")
)
FROM_ALL = Derivation(TABLET, plus=(ALL,), minus=(DESKTOP, MOBILE))
FROM_DEVICES = Derivation(ALL, plus=(DESKTOP, MOBILE, TABLET))
QUICK = Patience(timeout_seconds=5, first_wait_seconds=0.01, longest_wait_seconds=0.1)


@pytest.fixture
async def warehouse(tmp_path):
    warehouse = open_warehouse(f"duckdb:///{tmp_path}/sessions.duckdb")
    await warehouse.prepare()
    return warehouse


@pytest.fixture
async def client(shop):
    auth = ApiKeyAuth(shop.api_key, shop.site_id)
    async with WixClient(auth, base_url=shop.url, requests_per_minute=100_000) as client:
        yield client


def partition(client, segment, day=DAYS[0]):
    return Partition(client.site_id, day, segment, ZONE)


async def load(client, warehouse, asked, derived=(), *, slots=4, timeout_seconds=5):
    told = []

    async def tell(outcome):
        told.append(outcome)

    outcomes = await load_partitions(
        client,
        warehouse,
        asked,
        LoadOptions(datetime.now(UTC), slots, replace(QUICK, timeout_seconds=timeout_seconds)),
        derivations={partition(client, how.segment, day): how for how, day in derived},
        on_progress=tell,
    )
    assert sorted(told, key=str) == sorted(outcomes, key=str), "each is told of, once"
    return outcomes


async def receipts(warehouse, client):
    found = await warehouse.receipts(client.site_id, RANGE)
    return {receipt.partition: receipt for receipt in found}


def truth(shop, which):
    return shop.answer(which.query.to_wire())


async def landed_ids(tmp_path, which):
    import duckdb  # noqa: PLC0415 - only to look from outside

    with duckdb.connect(f"{tmp_path}/sessions.duckdb") as database:
        rows = database.execute(
            "SELECT session_id FROM wix_session_ids WHERE session_date = ? AND segment = ?",
            [which.day, which.segment],
        ).fetchall()
    return sorted(session_id for (session_id,) in rows)


async def test_a_derived_partition_holds_just_what_wix_would_have_said(
    shop, client, warehouse, tmp_path
):
    """Every id, none twice, no job for it; and its receipt says what it came from."""
    asked = [partition(client, key, day) for day in DAYS for key in (ALL, DESKTOP, MOBILE)]
    outcomes = await load(client, warehouse, asked, [(FROM_ALL, day) for day in DAYS], slots=1)
    assert {one.state for one in outcomes} == {AskState.LANDED}
    assert len(shop.submits) == len(asked)
    known = await receipts(warehouse, client)
    for day in DAYS:
        tablet = partition(client, TABLET, day)
        assert await landed_ids(tmp_path, tablet) == sorted(truth(shop, tablet))
        assert known[tablet].derived_from == FROM_ALL.expression
        assert known[tablet].sessions == len(truth(shop, tablet))
        assert known[partition(client, ALL, day)].derived_from is None


async def test_the_same_answer_derived_again_writes_nothing(client, warehouse):
    asked = [partition(client, key) for key in (ALL, DESKTOP, MOBILE)]
    for state in (AskState.LANDED, AskState.UNCHANGED):
        outcomes = await load(client, warehouse, asked, [(FROM_ALL, DAYS[0])])
        assert {one.state for one in outcomes} == {state}


async def test_what_was_derived_is_proven_when_wix_says_the_same(client, warehouse):
    """Asked for at last, it is no longer marked; and what Wix said is not marked as derived."""
    tablet = partition(client, TABLET)
    asked = [partition(client, key) for key in (ALL, DESKTOP, MOBILE)]
    await load(client, warehouse, asked, [(FROM_ALL, DAYS[0])])
    (outcome,) = await load(client, warehouse, [tablet])
    assert (outcome.state, outcome.added, outcome.gone) == (AskState.LANDED, 0, 0)
    assert (await receipts(warehouse, client))[tablet].derived_from is None
    *_, derived = await load(client, warehouse, asked, [(FROM_ALL, DAYS[0])])
    assert derived.state is AskState.UNCHANGED
    assert (await receipts(warehouse, client))[tablet].derived_from is None


async def test_a_job_from_before_a_partition_was_derived_is_not_waited_for(shop, client, warehouse):
    """It timed out; once the partition is derived, a refresh asks Wix anew, and lands."""
    tablet = partition(client, TABLET)
    shop.faults = [Fault("job_never_finishes", times=1)]
    (failed,) = await load(client, warehouse, [tablet], timeout_seconds=0.5)
    assert failed.state is AskState.FAILED
    asked = [partition(client, key) for key in (ALL, DESKTOP, MOBILE)]
    *_, derived = await load(client, warehouse, asked, [(FROM_ALL, DAYS[0])])
    assert (derived.state, derived.derived_from) == (AskState.LANDED, FROM_ALL.expression)
    (again,) = await load(client, warehouse, [tablet])
    assert (again.state, again.adopted) == (AskState.LANDED, False)


async def test_a_lost_submit_from_before_is_counted_when_a_partition_is_derived(client, warehouse):
    """Killed before the submit or after it: nobody knows, and nobody else will count it."""
    tablet = partition(client, TABLET)
    await warehouse.record(Ask.intend(tablet, at=datetime.now(UTC), run_id=None))
    asked = [partition(client, key) for key in (ALL, DESKTOP, MOBILE)]
    *_, derived = await load(client, warehouse, asked, [(FROM_ALL, DAYS[0])])
    assert derived.possible_orphans == 1
    (again,) = await load(client, warehouse, [tablet])
    assert again.possible_orphans == 0


async def test_what_the_answers_contradict_is_asked_for(shop, client, warehouse, tmp_path, caplog):
    """Two devices that list the same ids can't make up all sessions."""
    shop.faults = [Fault("swapped_job", after=1, times=1)]
    asked = [partition(client, key) for key in (DESKTOP, MOBILE, TABLET)]
    *_, everybody = await load(client, warehouse, asked, [(FROM_DEVICES, DAYS[0])], slots=1)
    assert (everybody.state, everybody.derived_from) == (AskState.LANDED, None)
    whole = partition(client, ALL)
    assert await landed_ids(tmp_path, whole) == sorted(truth(shop, whole))
    assert "does not follow from" in caplog.text


async def test_where_a_source_fails_its_heir_is_asked_for(shop, client, warehouse, tmp_path):
    shop.faults = [Fault("job_error", times=2)]
    asked = [partition(client, key) for key in (DESKTOP, ALL, MOBILE)]
    outcomes = await load(client, warehouse, asked, [(FROM_ALL, DAYS[0])], slots=1)
    tablet = outcomes[-1]
    assert (tablet.state, tablet.derived_from) == (AskState.LANDED, None)
    which = partition(client, TABLET)
    assert await landed_ids(tmp_path, which) == sorted(truth(shop, which))


async def test_a_derived_partition_that_cannot_land_is_told_as_any_other(client, tmp_path, caplog):
    """Its place is taken by something else: it fails, the log names it, the others land."""
    warehouse = open_warehouse(f"parquet:///{tmp_path}/lake")
    await warehouse.prepare()
    taken = tmp_path / "lake" / "wix_session_ids" / client.site_id / quote(TABLET, safe="")
    taken.parent.mkdir(parents=True)
    taken.touch()
    asked = [partition(client, key) for key in (ALL, DESKTOP, MOBILE)]
    *others, tablet = await load(client, warehouse, asked, [(FROM_ALL, DAYS[0])])
    assert {one.state for one in others} == {AskState.LANDED}
    assert tablet.state is AskState.FAILED
    assert f"{tablet.partition} failed: " in caplog.text


async def test_a_day_that_wix_chokes_on_is_put_together_from_its_parts(
    shop, client, warehouse, tmp_path
):
    """By device and, to prove it, by funnel; the parts land as well."""
    shop.faults = [Fault("job_error", times=2)]
    poison, other = (partition(client, ALL, day) for day in DAYS[:2])
    outcomes = await load(client, warehouse, [poison, other], slots=1)
    assert [one.state for one in outcomes] == [AskState.LANDED] * 2
    assert outcomes[0].derived_from == FROM_DEVICES.expression
    assert await landed_ids(tmp_path, poison) == sorted(truth(shop, poison))
    known = await receipts(warehouse, client)
    assert known[poison].derived_from == FROM_DEVICES.expression
    parts = {one.segment for one in known if one.day == DAYS[0]} - {ALL}
    assert parts >= {DESKTOP, MOBILE, TABLET}
    assert len(parts) == 5
    assert {one.partition.segment for one in outcomes[0].parts} == parts


async def test_a_part_that_fails_too_is_named(shop, client, warehouse):
    """The poison is isolated; the other parts land."""
    shop.faults = [Fault("job_error", times=2), Fault("job_error", after=4, times=2)]
    poison, other = (partition(client, ALL, day) for day in DAYS[:2])
    failed, landed = await load(client, warehouse, [poison, other], slots=1)
    assert (failed.state, landed.state) == (AskState.FAILED, AskState.LANDED)
    assert "Of its parts" in failed.reason
    assert "failed too" in failed.reason
    assert Counter(part.state for part in failed.parts) == {"landed": 4, "failed": 1}
    days = [one.day for one in await receipts(warehouse, client)]
    assert days.count(DAYS[0]) == 4


async def test_a_day_that_is_read_too_slowly_is_not_asked_for_in_parts(shop, client, warehouse):
    """Its job has finished, so Wix did not choke on it; the next load reads that very job."""
    client.page_limit = 10
    shop.faults = [Fault("slow", on="result", after=1, times=1, seconds=2)]
    slow, other = (partition(client, ALL, day) for day in DAYS[:2])
    failed, landed = await load(client, warehouse, [slow, other], slots=1, timeout_seconds=1)
    assert (failed.state, landed.state) == (AskState.FAILED, AskState.LANDED)
    (again,) = await load(client, warehouse, [slow])
    assert (again.state, again.adopted) == (AskState.LANDED, True)
    assert len(shop.submits) == 2


async def test_a_load_that_is_stopped_asks_for_no_parts(shop, client, warehouse, caplog):
    """What holds for every partition holds for those, so they are not even begun."""
    shop.faults = [Fault("job_error", times=2), Fault("expired_token", on="list", after=3)]
    asked = [partition(client, ALL, day) for day in DAYS]
    failed, landed, _ = await load(client, warehouse, asked, slots=1)
    assert (failed.state, landed.state) == (AskState.FAILED, AskState.LANDED)
    assert "ended job" in failed.reason
    assert "parts" not in failed.reason
    assert "asking for its parts" not in caplog.text


async def test_parts_that_leave_a_session_out_land_as_no_day(warehouse):
    """By device it is lost and by funnel it is not, so the day stays a gap, and says why."""
    visits = [visit(day, device) for day in DAYS[:2] for device in ("MOBILE", None)]
    poisoned = [Fault("job_error", times=2)]
    with running(World(visits), now=NOW, faults=poisoned) as shop:
        auth = ApiKeyAuth(shop.api_key, shop.site_id)
        async with WixClient(auth, base_url=shop.url, requests_per_minute=100_000) as client:
            asked = [partition(client, ALL, day) for day in DAYS[:2]]
            failed, other = await load(client, warehouse, asked, slots=1)
    assert (failed.state, other.state) == (AskState.FAILED, AskState.LANDED)
    assert "do not agree" in failed.reason
    assert asked[0] not in await receipts(warehouse, client)


def visit(day, device):
    noon = datetime.combine(day, time(12), tzinfo=UTC)
    return Session(id=f"{day} {device}", arrival=noon, end=noon, device=device)


async def test_where_nothing_lands_nothing_is_asked_in_parts(shop, client, warehouse):
    """Wix is down then, and five jobs for one make it no better."""
    shop.faults = [Fault("job_error")]
    outcomes = await load(client, warehouse, [partition(client, ALL, day) for day in DAYS])
    assert {one.state for one in outcomes} == {AskState.FAILED}
    assert len(shop.submits) == 2 * len(DAYS)


@pytest.mark.parametrize("segment", [MOBILE, "conversion_funnel=+SESSIONS_CONVERTED"])
async def test_what_no_parts_would_prove_is_not_put_together(shop, client, warehouse, segment):
    """MOBILE = ALL - DESKTOP - TABLET rests on what Wix does not say, and nothing else does."""
    shop.faults = [Fault("job_error", times=2)]
    failed, _ = await load(
        client, warehouse, [partition(client, segment, day) for day in DAYS[:2]], slots=1
    )
    assert failed.state is AskState.FAILED
    assert len(shop.submits) == 3


# -- the plan --------------------------------------------------------------------------------------

NOW = datetime(2024, 6, 1, tzinfo=UTC)
POLICY = RefreshPolicy(Refresh.STALE, timedelta(days=3), NOW, NOW)


def receipt(segment, sessions, day):
    at = NOW - timedelta(days=1)
    return Receipt(
        Partition("site", day, segment, ZONE), sessions, "digest", "job", at, at, at, 0, 0, 0, 0
    )


def covered(keys, sizes, days, policy=POLICY):
    window = Window(days[0], days[-1] + timedelta(1), ZONE)
    known = [receipt(key, size, date(2024, 5, 1)) for key, size in sizes.items()]
    plan = make_plan(partitions_of("site", window, map(Segment.parse, keys)), known, policy)
    return cover_cheaply(plan, known, policy)


def test_the_cheapest_plan_derives_what_costs_more_than_it_must():
    """All sessions follow from the three devices, so their many pages need not be read."""
    plan = covered(
        [ALL, DESKTOP, MOBILE, TABLET],
        {ALL: 20_000, DESKTOP: 7_000, MOBILE: 12_000, TABLET: 1_000},
        DAYS,
    )
    assert {one.segment for one in plan.asked} == {DESKTOP, MOBILE, TABLET}
    assert set(plan.derived.values()) == {FROM_DEVICES}
    assert {one.day for one in plan.derived} == set(DAYS)
    assert plan.savings == ("ALL = DESKTOP + MOBILE + TABLET: 23 requests instead of 44.",)


def test_a_segment_nobody_wanted_is_planned_as_such():
    """A big list is replaced by two that together are smaller."""
    viewed = "conversion_funnel=+VIEWED_PRODUCT"
    rest = "conversion_funnel=-VIEWED_PRODUCT"
    plan = covered([ALL, viewed], {ALL: 20_000, viewed: 19_000, rest: 1_000}, DAYS[:1])
    auxiliary = [one.partition.segment for one in plan.to_ask if one.reason is Reason.AUXILIARY]
    assert auxiliary == [rest]
    assert len(plan.derived) == 1


def test_a_day_that_may_still_get_sessions_is_asked_for_whole():
    """One that comes between two answers would be filed wrongly."""
    today = datetime(2024, 3, 3, 9, tzinfo=UTC)
    policy = replace(POLICY, as_of=today, now=today)
    plan = covered([ALL, DESKTOP, MOBILE, TABLET], {ALL: 20_000}, DAYS[:2], policy)
    assert (len(plan.asked), plan.derived) == (8, {})

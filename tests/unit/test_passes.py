"""A listing has exactly the true IDs or ends with an error, whatever the pages and totals are.

The server is simulated in the client's transport, so that hundreds of servers are quick.
"""

from __future__ import annotations

import math
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from test_rate_limiter import VirtualClock

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import SessionsQuery
from prefect_wix.errors import IncompleteListingError, InvalidResponseError, JobTimeoutError
from prefect_wix.jobs.listing import MAX_PASSES, STALE_PASSES, Listing
from tests.options import repeated

QUERY = SessionsQuery(
    start_date="2024-03-01", end_date="2024-03-02", device_type="ALL", timezone="UTC"
)
HIDDEN = None
TRUE = "true"


@dataclass
class Server:
    """A finished job with `count` IDs, and how the server returns them."""

    count: int
    total: object = TRUE
    """The total of every page, or a function of the request's number; `HIDDEN` for none."""
    ties: int = 1
    """The order is random within groups of this many IDs, for each request anew."""
    largest_offset: float = math.inf
    """A larger offset returns the page at this one."""
    page_cap: float = math.inf
    """A page has no more IDs than this."""
    overlap: int = 0
    """Each page begins with this many IDs of the page before, and then continues."""
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    requests: int = 0
    offsets: list[int] = field(default_factory=list)

    @property
    def ids(self):
        return {f"{n:06}" for n in range(self.count)}

    def respond(self, request):
        if request.method == "POST":
            return httpx.Response(200, json={"jobId": "j"})
        params = request.url.params
        self.requests += 1
        self.offsets.append(int(params["offset"]))
        ids = self.page(int(params["offset"]), int(params["limit"]))
        result = {"jobStatus": "FINISHED", "sessionIds": ids, "total": self._total()}
        return httpx.Response(200, json={"result": result}, headers={"x-wix-request-id": "req-1"})

    def page(self, offset, limit):
        start = int(min(offset, self.largest_offset))
        start -= self.overlap * (start // limit)
        length = int(min(limit, self.page_cap))
        return [f"{n:06}" for n in self._order()[start : start + length]]

    def _total(self):
        total = self.total(self.requests) if callable(self.total) else self.total
        return self.count if total == TRUE else total

    def _order(self):
        if self.ties == 1:
            return range(self.count)
        order = []
        for start in range(0, self.count, self.ties):
            tied = range(start, min(start + self.ties, self.count))
            order += self.rng.sample(tied, len(tied))
        return order


@asynccontextmanager
async def listing_of(server, *, limit):
    """A listing of the server's job with pages of at most `limit` IDs."""
    client = WixClient(
        ApiKeyAuth("key", "simulated"),
        base_url="http://127.0.0.1:1",
        requests_per_minute=1_000_000,
        clock=VirtualClock(),
    )
    client._http = httpx.AsyncClient(
        base_url=client.base_url, transport=httpx.MockTransport(server.respond)
    )
    client.page_limit = limit
    async with client, Listing(client, QUERY) as listing:
        yield listing


async def listed(server, *, limit):
    """The IDs and the summary of a complete listing."""
    async with listing_of(server, limit=limit) as listing:
        summary = await listing.read_all()
        return {one for batch in listing.spool.batches() for one in batch}, summary


async def failure(server, *, limit):
    """The error of an incomplete listing."""
    async with listing_of(server, limit=limit) as listing:
        with pytest.raises(IncompleteListingError) as caught:
            await listing.read_all()
        assert listing.summary is None
    return caught.value


# --- the end of the list -----------------------------------------------------------------------


@pytest.mark.parametrize("largest_offset", [0, 999, 9000, 9500])
@pytest.mark.parametrize("total", [HIDDEN, TRUE, 10_000])
async def test_a_server_that_ignores_or_clamps_the_offset_is_incomplete(largest_offset, total):
    """Pages that only repeat IDs are not the end of the list."""
    server = Server(25_000, total=total, largest_offset=largest_offset)
    error = await failure(server, limit=1000)
    assert error.received < 25_000
    assert server.requests <= 130, "a result that never moves costs few requests"


@pytest.mark.parametrize("count", [10, 20, 35])
async def test_pages_that_only_repeat_ids_do_not_end_a_list_without_a_total(count):
    """All IDs were received, but nothing shows that."""
    error = await failure(Server(count, total=HIDDEN, largest_offset=count - 10), limit=10)
    assert (error.received, error.total) == (count, None)
    assert "without a total, and no two passes" in str(error)


@pytest.mark.parametrize("total", [10, 20, 40, 100])
async def test_a_total_reached_by_a_full_page_is_verified_by_the_next_page(total):
    """A server may cap its totals at a round number."""
    error = await failure(Server(101, total=total), limit=10)
    assert error.received > total == error.total
    server = Server(total)
    ids, summary = await listed(server, limit=10)
    assert (ids, summary.passes) == (server.ids, 1)
    assert server.requests == total // 10 + 1
    assert max(server.offsets) == total


@pytest.mark.parametrize("count", [0, 1, 9, 11, 99])
async def test_a_total_reached_by_a_short_page_needs_no_more_requests(count):
    server = Server(count)
    ids, summary = await listed(server, limit=10)
    assert (ids, summary.passes, server.requests) == (server.ids, 1, count // 10 + 1)


@pytest.mark.parametrize("total", range(30))
async def test_a_total_that_is_too_low_is_incomplete(total):
    """Also a total of 0."""
    server = Server(30, total=total)
    error = await failure(server, limit=10)
    assert error.received > total == error.total
    assert server.requests <= (total // 10 + 2) * STALE_PASSES, "a pass ends above the total"


@pytest.mark.parametrize("total", [31, 40, 1000, 10**18])
async def test_a_total_that_is_too_high_is_incomplete_after_few_requests(total):
    server = Server(30, total=total)
    error = await failure(server, limit=10)
    assert (error.received, error.total) == (30, total)
    assert server.requests <= 10 * STALE_PASSES
    assert max(server.offsets) <= 30 + 4 * 10, "the prefetcher reads little beyond the end"


# --- totals that are stated now and then -------------------------------------------------------


@pytest.mark.parametrize("stated", range(1, 5))
async def test_a_total_on_any_page_is_enough(stated):
    server = Server(35, total=lambda n: TRUE if n == stated else HIDDEN)
    ids, summary = await listed(server, limit=10)
    assert (ids, summary.passes) == (server.ids, 1)


async def test_a_total_of_an_earlier_pass_is_not_forgotten():
    """Otherwise two passes without a total would agree on fewer IDs."""
    error = await failure(Server(35, total=lambda n: 40 if n == 1 else HIDDEN), limit=10)
    assert (error.received, error.total) == (35, 40)


@pytest.mark.parametrize("wrong", range(1, 5))
@pytest.mark.parametrize("lie", [0, 10, 34, 36, 1000])
async def test_a_total_that_changes_needs_a_pass_with_one_total_and_all_ids(wrong, lie):
    server = Server(35, total=lambda n: lie if n == wrong else TRUE)
    ids, summary = await listed(server, limit=10)
    assert ids == server.ids
    assert 2 <= summary.passes <= 3


async def test_ids_from_before_a_change_of_the_total_do_not_count():
    """The result loses an ID that was read, and each pass lacks another one."""
    pages = iter([(["a", "b", "g"], 4), ([], 4), (["a", "b"], 3), *[(["a", "b"], 3), ([], 3)] * 40])

    class Shrinking(Server):
        def page(self, offset, limit):
            ids, self.total = next(pages)
            return ids

    error = await failure(Shrinking(4), limit=3)
    assert (error.received, error.total) == (3, 3)


# --- an order that is not stable ---------------------------------------------------------------


@pytest.mark.parametrize("seed", range(repeated(2, soak=20)))
async def test_a_random_order_within_ties_is_read_until_all_ids_are_received(seed):
    server = Server(10_000, ties=300, rng=random.Random(seed))
    ids, summary = await listed(server, limit=1000)
    assert ids == server.ids
    assert 4 < summary.passes <= MAX_PASSES
    assert server.requests <= 11 * summary.passes, "a pass ends at the first page after the total"


async def test_at_most_20_passes_are_read():
    """Each pass brings one more ID of a total that is never reached."""

    class Slow(Server):
        offset_zero = 0

        def page(self, offset, limit):
            self.offset_zero += not offset
            return [] if offset else [str(self.offset_zero), "a"]

    server = Slow(0, total=1000)
    error = await failure(server, limit=10)
    assert (server.offset_zero, error.received) == (MAX_PASSES, 1 + MAX_PASSES)


async def test_more_ids_than_the_total_are_not_read_20_times():
    """New IDs bring a listing no closer to its total if it has more already."""

    class Endless(Server):
        def page(self, offset, limit):
            return [str(self.rng.random()) for _ in range(limit)]

    server = Endless(0, total=25)
    await failure(server, limit=10)
    assert server.requests <= 4 * STALE_PASSES


@pytest.mark.parametrize("count", [11, 12, 15])
async def test_without_a_total_a_pass_with_duplicates_proves_nothing(count):
    """A page may have lost the IDs in whose place another page repeats some."""
    for seed in range(30):
        server = Server(count, total=HIDDEN, ties=count, rng=random.Random(seed))
        async with listing_of(server, limit=10) as listing:
            try:
                summary = await listing.read_all()
            except IncompleteListingError:
                assert server.requests <= 3 * STALE_PASSES, "more passes would prove no more"
            else:
                assert summary.sessions == count


# --- pages that are too large ------------------------------------------------------------------


@pytest.mark.parametrize("extra", [1, 990])
@pytest.mark.parametrize("count", [1001, 2000])
async def test_a_page_with_more_ids_than_requested_is_refused(extra, count):
    class Generous(Server):
        def page(self, offset, limit):
            return super().page(offset, limit + extra)

    async with listing_of(Generous(count), limit=10) as listing:
        with pytest.raises(InvalidResponseError, match="IDs in a page of at most 10") as caught:
            await listing.read_all()
    assert "/analytics/v1/sessions/list/result" in str(caught.value)
    assert "req-1" in str(caught.value)


# --- any server --------------------------------------------------------------------------------


def drawn_total(rng, count):
    """A function that states true, hidden or wrong totals, with a bias to one of them."""
    lie = rng.choice([0, count - 1, count + 1, count // 10 * 10, rng.randrange(2 * count + 2)])
    weights = rng.choice([(1, 0, 0), (0, 1, 0), (0, 0, 1), (6, 1, 1), (1, 1, 1), (3, 3, 0)])
    return lambda _: rng.choices((TRUE, HIDDEN, max(lie, 0)), weights)[0]


def drawn_server(rng):
    """A server with faults that a client can see in its responses.

    A wrong total that equals the number of distinct IDs is invisible if pages lack IDs as well, or
    are all short: such servers are not drawn.
    """
    count = rng.choice([0, 1, 9, 10, 11, 20, 40, rng.randrange(80)])
    server = Server(count, rng=rng)
    server.largest_offset = rng.choice([math.inf, math.inf, 0, 10, 15, rng.randrange(80)])
    match rng.randrange(3):
        case 0:
            server.total = drawn_total(rng, count)
        case 1:
            server.total = rng.choice([TRUE, HIDDEN])
            server.ties = rng.choice([2, 3, 7, 15, 80])
        case 2:
            server.total = rng.choice([TRUE, HIDDEN])
            server.page_cap = rng.choice([1, 3, 9, math.inf])
            server.overlap = rng.choice([0, 1, 5]) if server.page_cap == math.inf else 0
    return server


async def test_any_complete_listing_has_exactly_the_true_ids():
    """The IDs of many servers are exact, or the listing is an error after a limited cost."""
    endings, servers = [], repeated(120, soak=6000)
    for seed in range(servers):
        server = drawn_server(random.Random(seed))
        async with listing_of(server, limit=10) as listing:
            try:
                summary = await listing.read_all()
            except (IncompleteListingError, JobTimeoutError):
                assert listing.summary is None, seed
            else:
                ids = {one for batch in listing.spool.batches() for one in batch}
                assert ids == server.ids, (seed, server)
                assert summary.sessions == len(ids), seed
            endings.append(listing.summary is not None)
        assert server.requests <= 2 * MAX_PASSES * (server.count // min(10, server.page_cap) + 4)
    both = "both endings must be among them, or nothing was tried"
    assert servers / 6 <= sum(endings) <= servers * 5 / 6, both


@pytest.mark.parametrize("ties", [2, 5, 12, 25])
async def test_a_true_total_is_reached_for_any_ties(ties):
    for seed in range(25):
        server = Server(60, ties=ties, rng=random.Random(seed))
        async with listing_of(server, limit=10) as listing:
            await listing.read_all()
            assert listing.summary.sessions == 60

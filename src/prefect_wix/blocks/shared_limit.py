"""The budget of a site across processes: a rate limit that the Prefect server keeps.

The server holds a global concurrency limit for each site, whose slots come back by themselves (slot
decay); ``python -m blocks`` makes it for the site it knows, and ``load-site`` for the others. Every
run that asks for the site takes a slot for each request, beside the budget of its own process.
Where there is no such limit, or the server can't be asked for a while, a run says so, once, and
goes on with its own budget alone.

The server drops the fraction of a slot that has come back at each request for slots, so slots are
taken a few at a time where several requests wait (see `prefect_wix.client.rate_limiter`). It has no
queue: it refuses whoever comes when too few slots are free (423 Locked), with a random wait that
grows with the number of slots refused lately, and Prefect's client tries again after that wait. So
two runs share the slots by chance, not in equal parts; together they stay within the budget.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError, rate_limit
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from prefect_wix.client.client import Log
from prefect_wix.client.rate_limiter import GLOBAL_LIMIT_BATCH

__all__ = [
    "RateLimit",
    "SharedLimit",
    "add_missing_limit",
    "limit_name",
    "rate_limit_for",
    "save_limit",
]

_MINUTE = 60.0
_MARGIN = 0.02
"""The share of the budget that is left alone: a request may take longer to arrive than another."""


def limit_name(site_id: str) -> str:
    """What the limit of a site is called on the server."""
    return f"wix-{re.sub(r'[^A-Za-z0-9_.-]', '-', site_id)}"


@dataclass(frozen=True)
class RateLimit:
    """A global concurrency limit with slot decay, in Prefect's words."""

    limit: int
    """Slots that may be taken at once."""
    slot_decay_per_second: float
    """Slots that come back each second."""


def rate_limit_for(requests_per_minute: int) -> RateLimit:
    """The limit that never lets more requests through in any minute than that.

    In a minute all its slots may be taken, and those that come back within it: the two together
    are the budget. Holds from 10 requests a minute on.
    """
    at_once = max(GLOBAL_LIMIT_BATCH, requests_per_minute // 20)
    spread = requests_per_minute * (1 - _MARGIN) - at_once
    return RateLimit(at_once, max(spread, 1.0) / _MINUTE)


async def save_limit(site_id: str, requests_per_minute: int) -> str:
    """Make or update the limit of a site on the server; its name."""
    name, rate = limit_name(site_id), rate_limit_for(requests_per_minute)
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name(name, rate.limit)
        update = GlobalConcurrencyLimitUpdate(slot_decay_per_second=rate.slot_decay_per_second)
        await client.update_global_concurrency_limit(name, update)
    return name


async def add_missing_limit(site_id: str, requests_per_minute: int) -> None:
    """Make the limit of a site where it has none; one that is there is left as it is."""
    name, rate = limit_name(site_id), rate_limit_for(requests_per_minute)
    async with get_client() as client:
        try:
            await client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            new = GlobalConcurrencyLimitCreate(
                name=name,
                limit=rate.limit,
                slot_decay_per_second=rate.slot_decay_per_second,
            )
            # Another run of the site may have made it meanwhile.
            with suppress(ObjectAlreadyExists):
                await client.create_global_concurrency_limit(new)


class SharedLimit:
    """Waits for what other processes spend; see `prefect_wix.client.rate_limiter.GlobalLimiter`.

    Args:
        site_id: whose budget.
        log: where to say that nobody keeps count.
    """

    def __init__(self, site_id: str, log: Log) -> None:
        self._name = limit_name(site_id)
        self._log = log
        self._is_there = True
        self._is_away = False

    async def __call__(self, slots: int) -> None:
        """Return when so many requests may be sent; never raises what the server suffers from."""
        if not self._is_there:
            return
        try:
            await rate_limit(self._name, occupy=slots, strict=True)
        except Exception as error:  # noqa: BLE001 - no failure of the server's is one of the load
            self._go_on_without(error)
        else:
            self._is_away = False

    def _go_on_without(self, error: Exception) -> None:
        if isinstance(error, ConcurrencySlotAcquisitionError) and error.__cause__ is None:
            self._is_there = False
            self._log.warning(
                "The site's requests are counted in this process only, not across processes: %s. "
                "If others ask for the site at the same time, make the limit %r with "
                "`python -m blocks`.",
                error,
                self._name,
            )
        elif not self._is_away:
            # It is asked again and again all the same: a server that restarts is soon back.
            self._is_away = True
            self._log.warning(
                "The limit %r can't be asked for. Until it can, the site's requests are counted in "
                "this process only: %s",
                self._name,
                error.__cause__ or error,
            )

"""The rate limit of a site across processes: a global concurrency limit on the Prefect server.

Each site has one limit with slot decay. `prefect-wix setup` creates it for the configured site,
``load-site`` for the sites of an account. Each request to Wix takes one slot, in addition to the
rate limiter of its process (`prefect_wix.client.rate_limiter`). If the limit does not exist or the
server is unavailable, a run logs one warning and continues with the rate limiter of its process.

The server truncates the fraction of a decayed slot at each acquisition, so several waiting requests
acquire their slots in one call. It has no queue: if too few slots are free it returns 423 Locked
with a random delay that grows with the number of recently denied slots, and Prefect's client
retries after that delay. Two runs therefore get random, unequal shares; together they stay within
the limit.
"""

from __future__ import annotations

import re
from contextlib import suppress

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError, rate_limit
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from prefect_wix.client.client import Log
from prefect_wix.client.rate_limiter import GLOBAL_LIMIT_BATCH

_MARGIN = 0.02
"""Unused share of the limit: requests that leave in one minute may arrive at Wix in another."""


def limit_name(site_id: str) -> str:
    """The name of a site's limit on the server."""
    return f"wix-{re.sub(r'[^A-Za-z0-9_.-]', '-', site_id)}"


def limit_for(site_id: str, requests_per_minute: int) -> GlobalConcurrencyLimitCreate:
    """The site's limit, which admits at most ``requests_per_minute`` requests in any minute.

    The worst minute takes all slots at once plus those that decay within it; the two add up to the
    rate limit. Valid from 10 requests per minute.
    """
    burst = max(GLOBAL_LIMIT_BATCH, requests_per_minute // 20)
    decayed = max(requests_per_minute * (1 - _MARGIN) - burst, 1.0)
    return GlobalConcurrencyLimitCreate(
        name=limit_name(site_id), limit=burst, slot_decay_per_second=decayed / 60
    )


async def save_limit(site_id: str, requests_per_minute: int) -> str:
    """Create or update the limit of a site on the server and return its name."""
    new = limit_for(site_id, requests_per_minute)
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name(new.name, new.limit)
        update = GlobalConcurrencyLimitUpdate(slot_decay_per_second=new.slot_decay_per_second)
        await client.update_global_concurrency_limit(new.name, update)
    return new.name


async def add_missing_limit(site_id: str, requests_per_minute: int) -> None:
    """Create the limit of a site unless it exists; an existing limit is not changed."""
    new = limit_for(site_id, requests_per_minute)
    async with get_client() as client:
        try:
            await client.read_global_concurrency_limit_by_name(new.name)
        except ObjectNotFound:
            # Another run of the site may have created it since the read.
            with suppress(ObjectAlreadyExists):
                await client.create_global_concurrency_limit(new)


class SharedLimit:
    """Acquires slots of a site's limit; a `prefect_wix.client.rate_limiter.GlobalLimiter`.

    Args:
        site_id: the site of the limit.
        log: receives a warning when the limit cannot be used.
    """

    def __init__(self, site_id: str, log: Log) -> None:
        self._name = limit_name(site_id)
        self._log = log
        self._exists = True
        self._is_unavailable = False

    async def __call__(self, slots: int) -> None:
        """Return when ``slots`` requests may be sent, or when the limit cannot be used."""
        if not self._exists:
            return
        try:
            await rate_limit(self._name, occupy=slots, strict=True)
        except Exception as error:  # noqa: BLE001 - a server failure must not fail the load
            self._warn(error)
        else:
            self._is_unavailable = False

    def _warn(self, error: Exception) -> None:
        if isinstance(error, ConcurrencySlotAcquisitionError) and error.__cause__ is None:
            self._exists = False
            self._log.warning(
                "The rate limit is enforced in this process only, since the Prefect server has no "
                "limit %r: %s. Run `prefect-wix setup` to create it.",
                self._name,
                error,
            )
        elif not self._is_unavailable:
            # Later calls try the server again; it may only be restarting.
            self._is_unavailable = True
            self._log.warning(
                "The rate limit is enforced in this process only until the Prefect server grants "
                "slots of limit %r again: %s",
                self._name,
                error.__cause__ or error,
            )

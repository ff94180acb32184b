"""The rate limit of a site across processes: a global concurrency limit on the Prefect server.

Each site has one limit with slot decay. `prefect-wix setup` creates it for the configured site,
``load-sites`` for the sites of an account. Each request to Wix takes one slot, in addition to the
rate limiter of its process (`prefect_wix.client.rate_limiter`).

No request waits for a call to the Prefect server while the limit has free slots: up to five
requests of a process are sent on credit, and a background task acquires their slots afterwards,
several in one call. Once the limit has too few free slots, requests wait for theirs, without
credit. If the limit cannot be used, or the server is slow or gone, a run logs one warning and
continues with the rate limiter of its process.

While slots are scarce, the task reads the limit before it acquires some: a denied acquisition
restarts the decay on the server, which forgets the slots that decayed since the last one.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from http import HTTPStatus

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError

from prefect_wix.client.client import Log

BATCH = 5
"""The most requests on credit, and the most waiting requests that one call acquires slots for."""
_DUE_ON_CREDIT = 4
"""So many requests on credit start an acquisition, if no request waits."""
_CALL_SECONDS = 1.0
"""A longer call fails. A server on SQLite is busy just after a task run starts, and Prefect's
client would wait 2 s before it calls again."""
_RETRY_SECONDS = 0.1
_READ_SECONDS = 60.0
"""The time after which the limit is read again, since it may have been changed."""
_TOO_FEW_SLOTS = {HTTPStatus.LOCKED, HTTPStatus.UNPROCESSABLE_ENTITY}
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
    burst = max(BATCH, requests_per_minute // 20)
    decayed = max(requests_per_minute * (1 - _MARGIN) - burst, 1.0)
    return GlobalConcurrencyLimitCreate(
        name=limit_name(site_id), limit=burst, slot_decay_per_second=decayed / 60
    )


async def save_limit(site_id: str, requests_per_minute: int) -> str:
    """Create or update the limit of a site on the server and return its name."""
    new = limit_for(site_id, requests_per_minute)
    async with get_client() as client:
        await client.upsert_global_concurrency_limit_by_name(
            new.name, new.limit, new.slot_decay_per_second
        )
    return new.name


async def add_missing_limit(site_id: str, requests_per_minute: int) -> None:
    """Create the limit of a site unless it exists; an existing limit is not changed."""
    async with get_client() as client:
        with suppress(ObjectAlreadyExists):
            await client.create_global_concurrency_limit(limit_for(site_id, requests_per_minute))


class SharedLimit:
    """Slots of a site's limit; a `prefect_wix.client.rate_limiter.GlobalLimiter`.

    Use `shared_limit`, which returns the one that all clients of the site in this process share.
    """

    def __init__(self, site_id: str, log: Log) -> None:
        self.log = log
        self._name = limit_name(site_id)
        self._slots = 0
        """The acquired slots that no request has used; negative: the requests on credit."""
        self._waiting = 0
        self._wanted = 0
        """The slots for which the limit had too few free ones."""
        self._is_scarce = False
        """Whether requests wait for slots of the limit, without credit."""
        self._plenty_until = 0.0
        """Until when slots are acquired without a read of the limit."""
        self._unusable_until = 0.0
        self._failures = 0
        self._logged: set[str] = set()
        self._next_call = 0.0
        """The earliest time of the next call."""
        self._acquiring: asyncio.Task[None] | None = None
        """The last call; without a reference it could be deleted."""

    def __call__(self, waiting: int) -> bool:
        """Take a slot for the first of ``waiting`` requests, and return whether there was one."""
        now = time.monotonic()
        if now < self._unusable_until:
            return True
        is_granted = self._slots + (0 if self._is_scarce else BATCH) > 0
        self._slots -= is_granted
        self._waiting = waiting - is_granted
        is_due = self._due() >= (1 if self._waiting else _DUE_ON_CREDIT)
        if is_due and now >= self._next_call:
            # Another event loop calls then, if this one is blocked.
            self._next_call = now + 2 * _CALL_SECONDS
            self._acquiring = asyncio.create_task(self._acquire())
        return is_granted

    def _due(self) -> int:
        return min(self._waiting - self._slots, BATCH)

    async def _acquire(self) -> None:
        """Acquire the due slots in one attempt; a request that still waits starts the next one."""
        wait = 0.0
        try:
            async with asyncio.timeout(_CALL_SECONDS), get_client() as client:
                wait = await self._call_server(client)
            self._failures = 0
        except Exception as error:  # noqa: BLE001 - a server failure must not fail the load
            wait = self._continue_alone(error)
        finally:
            self._next_call = time.monotonic() + wait

    async def _call_server(self, client: PrefectClient) -> float:
        """Acquire the due slots if the limit has them; returns the seconds until the next call."""
        if time.monotonic() < self._plenty_until and await self._increment(client, self._due()):
            return 0.0
        try:
            limit = await client.read_global_concurrency_limit_by_name(self._name)
        except ObjectNotFound:
            return self._stop_using("does not exist; run `prefect-wix setup` to create it")
        decay = limit.slot_decay_per_second
        if not (limit.active and limit.limit and decay):
            return self._stop_using("is inactive, or has no slots or no slot decay")
        if limit.limit < BATCH:
            self._warn_once(
                f"Limit {self._name!r} of the Prefect server is set to {limit.limit}, so requests "
                "are sent more slowly. Run `prefect-wix setup` to reset it"
            )
        due = min(self._wanted or self._due(), limit.limit)
        free = limit.limit - limit.active_slots
        missing = due - free
        is_plenty = missing <= -BATCH
        self._plenty_until = time.monotonic() + _READ_SECONDS if is_plenty else 0.0
        # More slots than are due save a call for the next requests.
        if missing <= 0 and await self._increment(client, max(due, min(free, BATCH))):
            self._wanted = 0
            self._is_scarce &= not is_plenty
            return 0.0
        self._is_scarce, self._plenty_until = True, 0.0
        # A process that lost its slots to another one calls early for fewer, others later.
        wait = max(missing, 1) / 2 if self._wanted else missing + 2
        self._wanted = max(1, due // 2) if self._wanted else due
        return min(wait / decay, _READ_SECONDS)

    async def _increment(self, client: PrefectClient, slots: int) -> bool:
        """Acquire slots, unless the limit has too few free slots or was lowered below them."""
        try:
            await client.increment_concurrency_slots([self._name], slots, "rate_limit")
        except PrefectHTTPStatusError as error:
            if error.response.status_code not in _TOO_FEW_SLOTS:
                raise
            return False
        self._slots += slots
        return True

    def _stop_using(self, reason: str) -> float:
        self._unusable_until = time.monotonic() + _READ_SECONDS
        self._slots = 0
        self._warn_once(
            "The rate limit is enforced in this process only, since limit "
            f"{self._name!r} of the Prefect server {reason}"
        )
        return 0.0

    def _continue_alone(self, error: Exception) -> float:
        """After a second failed call, give the waiting requests new credit."""
        self._failures += 1
        if self._failures > 1 and self._waiting:
            self._slots, self._is_scarce = 0, False
            cause = str(error) or f"no response within {_CALL_SECONDS:.0f} s"
            if isinstance(error, PrefectHTTPStatusError):
                # Its text has the URL of the server, which may contain a password.
                cause = f"HTTP {error.response.status_code} {error.response.reason_phrase}"
            self._warn_once(
                "The rate limit is enforced in this process only until the Prefect server grants "
                f"slots of limit {self._name!r} again",
                f": {cause}",
            )
        return _RETRY_SECONDS

    def _warn_once(self, sentence: str, details: str = "") -> None:
        if sentence not in self._logged:
            self._logged.add(sentence)
            self.log.warning("%s%s.", sentence, details)


_limits: dict[str, SharedLimit] = {}


def shared_limit(site_id: str, log: Log) -> SharedLimit:
    """The slots of a site's limit, which all clients of the site in this process share.

    Args:
        site_id: the site of the limit.
        log: the logger of the current run, which receives later warnings.
    """
    limit = _limits.setdefault(site_id, SharedLimit(site_id, log))
    limit.log = log
    return limit

"""The Wix API as methods: one call, one answer or one error of the tree.

Knows addresses, bodies, the site's request budget and which request may be repeated. Does not wait
for jobs or page through results: that is `prefect_wix.jobs.listing`. Prefect is not known here.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import islice
from typing import Any, Self, TypeVar

import httpx

from prefect_wix.client.auth import (
    TOKEN_PATH,
    SiteAuth,
    check_base_url,
    token_error,
)
from prefect_wix.client.models import (
    PAGE_LIMIT,
    JobPage,
    MarkOutcome,
    MarkState,
    SessionsQuery,
    SitesPage,
)
from prefect_wix.client.rate_limiter import (
    REQUESTS_PER_MINUTE,
    GlobalLimiter,
    Priority,
    page_priority,
    shared_rate_limiter,
    submit_priority,
)
from prefect_wix.client.responses import (
    JsonResponse,
    error_from_response,
    parse_counts,
    parse_job_id,
    parse_nothing,
    parse_page,
    parse_response,
    parse_sites,
    parse_timezone,
)
from prefect_wix.client.retry import RetryPolicy, retry_after_seconds, should_retry
from prefect_wix.clock import SYSTEM_CLOCK, Clock
from prefect_wix.errors import (
    RateLimitError,
    RequestError,
    RequestNotSentError,
    ResponseLostError,
)

__all__ = [
    "BASE_URL",
    "MARK_LIMIT",
    "Log",
    "WixClient",
    "mark_outcome",
]

BASE_URL = "https://www.wixapis.com"
MARK_LIMIT = 100
"""The most ids one "Mark Recordings As Deleted" may name."""
SITES_LIMIT = 100
"""The most sites a page may ask for."""
RATE_LIMIT_PAUSE_SECONDS = 60.0
"""Wix: after a 429 wait a minute. Used where the reply has no ``Retry-After``."""
TIMEOUT_SECONDS = 30.0
_ACQUIRED = "prefect_wix_turn"
_LOG = logging.getLogger(__name__)

T = TypeVar("T")
Log = logging.Logger | logging.LoggerAdapter[Any]


@dataclass(frozen=True)
class _Endpoint:
    method: str
    path: str
    reads: bool
    """Asking twice is the same as asking once."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


_LIST = _Endpoint("POST", "/analytics/v1/sessions/list/async", reads=False)
_RESULT = _Endpoint("GET", "/analytics/v1/sessions/list/result", reads=True)
_RECORDED = _Endpoint("POST", "/analytics/v1/sessions/session-recorded", reads=False)
_DELETED = _Endpoint("POST", "/analytics/v1/sessions/recordings-deleted", reads=False)
_PROPERTIES = _Endpoint("GET", "/site-properties/v4/properties", reads=True)
_COUNTS = _Endpoint("GET", "/analytics/v2/site-analytics/data", reads=True)
_SITES = _Endpoint("POST", "/site-list/v2/sites/query", reads=True)

_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.LocalProtocolError,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class WixClient:
    """An asynchronous client for one site. Use it as ``async with``; share it between jobs.

    Args:
        auth: `ApiKeyAuth` or `AppAuth`; it also says which site is meant. `AccountKeyAuth` for
            `query_sites`, and for nothing else.
        base_url: Wix, or a sandbox. Must be https, except on this machine.
        requests_per_minute: the site's budget, shared by every client of the site in this process.
        timeout_seconds: how long one request may take, from its turn to the end of the answer.
        retry: how requests that may be repeated are repeated.
        clock: what waiting goes by.
        gate: waits for what other processes spend of the site's budget, where somebody keeps count.
        log: where to tell that requests have to wait.

    Raises:
        ValueError: the base URL would send the key in clear.
    """

    def __init__(
        self,
        auth: SiteAuth,
        *,
        base_url: str = BASE_URL,
        requests_per_minute: int = REQUESTS_PER_MINUTE,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry: RetryPolicy = RetryPolicy(),
        clock: Clock = SYSTEM_CLOCK,
        global_limiter: GlobalLimiter | None = None,
        log: Log = _LOG,
    ) -> None:
        self.log = log
        self.base_url = check_base_url(base_url)
        self.site_id = auth.site_id
        self.clock = clock
        self.page_limit = PAGE_LIMIT
        """Ids to ask for a page; lowered for good when Wix says that it takes fewer."""
        self.rate_limiter = shared_rate_limiter(
            self.base_url, self.site_id, requests_per_minute, clock
        )
        """The site's budget, shared with every client of the site in this process."""
        self._global_limiter = global_limiter
        self._retry = retry
        self._timeout = timeout_seconds
        # Redirects are never followed: the next host would be handed the key.
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            auth=auth,
            timeout=timeout_seconds,
            follow_redirects=False,
            verify=_tls(),
            event_hooks={"request": [self._count_extra_request]},
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.aclose()

    async def list_sessions_async(self, query: SessionsQuery) -> str:
        """Start a job for a query (Wix, "List Sessions Async").

        Not idempotent: every call that takes effect makes a job.

        Returns:
            The job's id.

        Raises:
            RequestError: see the tree in `prefect_wix.errors`.
        """
        body = query.to_wire()
        return await self._call(_LIST, parse_job_id, priority=submit_priority, json=body)

    async def get_list_sessions_job_result(
        self,
        job_id: str,
        *,
        limit: int = PAGE_LIMIT,
        offset: int = 0,
        priority: Priority = page_priority,
    ) -> JobPage:
        """One page of a job's result, or its status while it runs ("Get List Sessions Job Result").

        Args:
            job_id: from `list_sessions_async`.
            limit: how many ids at most, 1 to 1000.
            offset: how many ids of the result to pass over.
            worth: the chance that the job is finished, where that is not sure; of the requests
                that wait for the site's budget the worthiest is sent first.

        Raises:
            RequestError: see the tree in `prefect_wix.errors`.
        """
        params = {"jobId": job_id, "limit": limit, "offset": offset}
        return await self._call(_RESULT, parse_page, priority=priority, params=params)

    async def mark_session_as_recorded(self, session_id: str) -> None:
        """Tell Wix that a recording of this session exists ("Mark Session As Recorded").

        Raises:
            RequestError: see the tree in `prefect_wix.errors`. After a `ResponseLostError`
                the mark may have been made.
        """
        await self._call(_RECORDED, parse_nothing, json={"sessionId": session_id})

    async def mark_recordings_as_deleted(self, session_ids: Iterable[str]) -> list[MarkOutcome]:
        """Tell Wix that recordings are gone ("Mark Recordings As Deleted").

        Any number of ids, in calls of 100. A call that fails does not stop the others, except
        where it shows that none can succeed (key, permission, app not installed).

        Returns:
            What became of every call, in order. Nothing is raised for a call that failed.

        Raises:
            TypeError: one text was given instead of a list.
        """
        if isinstance(session_ids, str):
            raise TypeError("session_ids must be a list of ids, not one text.")
        outcomes: list[MarkOutcome] = []
        hopeless = False
        for ids in _batches_of_ids(session_ids):
            if hopeless:
                outcomes.append(MarkOutcome(session_ids=ids, state=MarkState.NOT_SENT))
                continue
            error = await self._mark_deleted(ids)
            outcomes.append(mark_outcome(ids, error))
            hopeless = error is not None and error.affects_site
        return outcomes

    async def mark_batch_as_deleted(self, session_ids: Sequence[str]) -> None:
        """One call of "Mark Recordings As Deleted", for 1 to 100 ids.

        Raises:
            RequestError: see the tree in `prefect_wix.errors`. After a `ResponseLostError`
                the marks may have been made.
        """
        await self._call(_DELETED, parse_nothing, json={"sessionIds": list(session_ids)})

    async def get_site_timezone(self) -> str | None:
        """The site's IANA time zone from Site Properties; None where the site has not set one.

        Raises:
            RequestError: see the tree in `prefect_wix.errors`.
        """
        return await self._call(_PROPERTIES, parse_timezone, params={"fields.paths": "timeZone"})

    async def get_total_sessions(self, start: date, end: date, timezone: str) -> dict[date, int]:
        """Wix's own count of sessions by local day ("Get Analytics Data", TOTAL_SESSIONS).

        Needs another permission than sessions do. Wix keeps the last 62 days; older ones are left
        out of the answer.

        Args:
            start: the first local day.
            end: the day after the last one; it is not included.
            timezone: the IANA zone that days are counted in.

        Raises:
            RequestError: see the tree in `prefect_wix.errors`.
        """
        params = {
            "measurementTypes": "TOTAL_SESSIONS",
            "dateRange.startDate": str(start),
            "dateRange.endDate": str(end),
            "timeZone": timezone,
        }
        return await self._call(_COUNTS, parse_counts, params=params)

    async def query_sites(self, cursor: str | None = None) -> SitesPage:
        """A page of the account's sites ("Query Sites"); see `prefect_wix.client.sites`.

        Args:
            cursor: where to go on, from the page before; the first page without it.

        Raises:
            RequestError: see the tree in `prefect_wix.errors`. 403 for a key that is asked for a
                site and not for the account.
        """
        paging = {"limit": SITES_LIMIT} | ({"cursor": cursor} if cursor else {})
        return await self._call(_SITES, parse_sites, json={"query": {"cursorPaging": paging}})

    async def _mark_deleted(self, session_ids: tuple[str, ...]) -> RequestError | None:
        try:
            await self.mark_batch_as_deleted(session_ids)
        except RequestError as error:
            return error
        return None

    async def _call(
        self,
        endpoint: _Endpoint,
        read: Callable[[JsonResponse], T],
        priority: Priority = page_priority,
        **content: Any,
    ) -> T:
        """What a request answers, which is repeated where that is safe and worth it."""
        for retries, wait in enumerate(self._retry.waits()):
            try:
                return read(await self._call_once(endpoint, priority, **content))
            except RequestError as error:
                if not should_retry(error, reads=endpoint.reads, retries=retries):
                    raise
                await self.clock.sleep(max(wait, retry_after_seconds(error)))
        return read(await self._call_once(endpoint, priority, **content))

    async def _call_once(
        self, endpoint: _Endpoint, priority: Priority, **content: Any
    ) -> JsonResponse:
        await self.rate_limiter.acquire(priority, global_limiter=self._global_limiter)
        response = await self._send(endpoint, **content)
        if response.is_success:
            return parse_response(response, str(endpoint))
        error = error_from_response(response, str(endpoint))
        if isinstance(error, RateLimitError):
            self._pause(error)
        raise error

    def _pause(self, error: RateLimitError) -> None:
        hint = error.retry_after
        seconds = RATE_LIMIT_PAUSE_SECONDS if hint is None else hint
        self.log.warning("%s Every request of the site waits %g s.", error, seconds)
        self.rate_limiter.pause(seconds)

    async def _count_extra_request(self, request: httpx.Request) -> None:
        """Count what is sent beside the request that had a turn: one for a token, or a resend."""
        if request.extensions.pop(_ACQUIRED, None) is None:
            self.rate_limiter.count_request()

    async def _send(self, endpoint: _Endpoint, **content: Any) -> httpx.Response:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._http.request(
                    endpoint.method, endpoint.path, extensions={_ACQUIRED: True}, **content
                )
        except httpx.RequestError as error:
            raise _transport_error(error, endpoint) from _without_credentials(error)
        except TimeoutError:
            raise _response_lost(f"none within {self._timeout:g} s", endpoint) from None


@cache
def _tls() -> ssl.SSLContext:
    # Reading the authorities takes 30 ms; every client of a process trusts the same ones.
    return httpx.create_ssl_context()


def _batches_of_ids(session_ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
    rest = iter(session_ids)
    while ids := tuple(islice(rest, MARK_LIMIT)):
        yield ids


def mark_outcome(session_ids: tuple[str, ...], error: RequestError | None) -> MarkOutcome:
    """What became of a mark call that ended so."""
    if error is None:
        return MarkOutcome(session_ids=session_ids, state=MarkState.DONE)
    return MarkOutcome(
        session_ids=session_ids,
        state=MarkState.UNKNOWN if error.may_have_taken_effect else MarkState.REFUSED,
        reason=str(error),
        request_id=error.request_id,
    )


def _transport_error(error: httpx.RequestError, endpoint: _Endpoint) -> RequestError:
    what = _describe(error)
    if error.request.url.path == TOKEN_PATH:
        return token_error(f"the token request failed: {what}")
    if isinstance(error, _NEVER_SENT):
        return RequestNotSentError(
            f"{endpoint} could not be sent: {what}. Check the network and the base URL.",
            endpoint=str(endpoint),
        )
    return _response_lost(what, endpoint)


def _response_lost(what: str, endpoint: _Endpoint) -> ResponseLostError:
    return ResponseLostError(
        f"The reply to {endpoint} was lost: {what}. It may have taken effect.",
        endpoint=str(endpoint),
    )


def _describe(error: httpx.RequestError) -> str:
    # The text of a LocalProtocolError may repeat a header that could not be sent.
    says_more = str(error) and not isinstance(error, httpx.LocalProtocolError)
    return f"{type(error).__name__}: {error}" if says_more else type(error).__name__


def _without_credentials(error: httpx.RequestError) -> httpx.RequestError:
    """The error, with a request that holds no headers and no body, fit for a chain of causes."""
    error.request = httpx.Request(error.request.method, error.request.url.copy_with(query=None))
    error.__context__ = error.__cause__ = None
    return error

"""The Wix API as a client: a method per endpoint, with rate limit, timeout and retries.

A method returns a parsed response or raises an error of `prefect_wix.errors`. Polling a job and
reading all of its pages are in `prefect_wix.jobs.listing`. To add an endpoint: a constant and a
method here, a parser in `responses`, its data in `models`, a handler in the sandbox.
"""

import asyncio
import logging
import math
import ssl
from collections.abc import Callable, Sequence
from datetime import date
from functools import cache, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Self, TypeVar

import httpx

from prefect_wix.client import responses
from prefect_wix.client.auth import (
    LOOPBACK_HOSTS,
    TOKEN_PATH,
    SiteAuth,
    check_base_url,
    token_error,
)
from prefect_wix.client.masking import without_logged_content
from prefect_wix.client.models import (
    PAGE_LIMIT,
    JobPage,
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
from prefect_wix.client.responses import JsonResponse, limit_body
from prefect_wix.client.retry import RETRIES, backoff, should_retry
from prefect_wix.clock import SYSTEM_CLOCK, Clock
from prefect_wix.errors import RateLimitError, RequestError, RequestNotSentError, ResponseLostError

BASE_URL = "https://www.wixapis.com"
MARK_LIMIT = 100
"""The most session IDs in one "Mark Recordings As Deleted" request."""
SITES_LIMIT = 100
"""The most sites in one page of "Query Sites"."""
RATE_LIMIT_PAUSE_SECONDS = 60.0
"""Wix documents to wait a minute after a 429. Used without a ``Retry-After``."""
STORM_SECONDS = 120.0
"""A 429 is retried at least this long, however often, as long as no deadline is earlier."""
TIMEOUT_SECONDS = 30.0
_LOOPBACK_URLS = [f"all://[{one}]" if ":" in one else f"all://{one}" for one in LOOPBACK_HOSTS]
_ACQUIRED = "prefect_wix_acquired"
_NO_JOB = "00000000-0000-0000-0000-000000000000"
_PAUSED = "%s All requests of the site are paused for %g s, and longer if Wix rejects the next one."
_LOG = logging.getLogger(__name__)

T = TypeVar("T")
Log = logging.Logger | logging.LoggerAdapter[Any]


_LIST = "POST /analytics/v1/sessions/list/async"
_RESULT = "GET /analytics/v1/sessions/list/result"
_RECORDED = "POST /analytics/v1/sessions/session-recorded"
_DELETED = "POST /analytics/v1/sessions/recordings-deleted"
_PROPERTIES = "GET /site-properties/v4/properties"
_COUNTS = "GET /analytics/v2/site-analytics/data"
_SITES = "POST /site-list/v2/sites/query"
_MARKS = (_RECORDED, _DELETED)
"""A successful mark may have an empty body."""
_WRITES = (_LIST, *_MARKS)
"""The other endpoints have no effect at Wix, so that their requests can be sent again."""
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.LocalProtocolError,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class WixClient:
    """An asynchronous client of one site. Use it with ``async with``; jobs can share it.

    Args:
        auth: `ApiKeyAuth` or `AppAuth`, which also identify the site; `AccountKeyAuth` for
            `query_sites` only.
        base_url: the host of the API. Must be https, except on this machine.
        requests_per_minute: the site's rate limit. All clients of the site in this process share
            one rate limiter, and the lowest limit applies.
        timeout_seconds: the time limit of one request, without its wait for the rate limit.
        retries: how often a failed request is sent again.
        clock: the clock of all waits.
        global_limiter: grants slots of the limit that processes share; None without one.
        log: the logger of rate-limit pauses.

    Raises:
        ValueError: the base URL is not https and not on this machine, or it has user info.
    """

    def __init__(
        self,
        auth: SiteAuth,
        *,
        base_url: str = BASE_URL,
        requests_per_minute: int = REQUESTS_PER_MINUTE,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retries: int = RETRIES,
        clock: Clock = SYSTEM_CLOCK,
        global_limiter: GlobalLimiter | None = None,
        log: Log = _LOG,
    ) -> None:
        self.log = log
        self.base_url = check_base_url(base_url)
        self.site_id = auth.site_id
        self.clock = clock
        self.page_limit = PAGE_LIMIT
        """The page size in IDs; lowered permanently when Wix rejects it as too large."""
        self.rate_limiter = shared_rate_limiter(
            self.base_url, self.site_id, requests_per_minute, clock
        )
        """The site's rate limiter, which all of its clients in this process share."""
        self._global_limiter = global_limiter
        self._retries = retries
        self._timeout = timeout_seconds
        # Following a redirect would send the key to another host.
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            auth=auth,
            timeout=timeout_seconds,
            follow_redirects=False,
            verify=_tls(),
            headers={"accept-encoding": "gzip"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            # A proxy of the environment cannot reach this machine, and would read the key.
            mounts=dict.fromkeys(_LOOPBACK_URLS),
            event_hooks={"request": [self._count_extra_request], "response": [limit_body]},
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.aclose()

    async def list_sessions_async(
        self, query: SessionsQuery, *, deadline: float | None = None
    ) -> str:
        """Submit a query as a job (Wix: "List Sessions Async"). Not idempotent.

        Args:
            query: the query to submit.
            deadline: until when the submit waits for the rate limit, and is retried while Wix
                returns 429 or 503 or can't be reached, on the client's clock; None for a number of
                retries alone.

        Returns:
            The job's ID.

        Raises:
            RequestError: see the tree in `prefect_wix.errors`.
        """
        body, parse = query.to_wire(), responses.parse_job_id
        return await self._call(_LIST, parse, submit_priority, deadline=deadline, json=body)

    async def get_list_sessions_job_result(
        self,
        job_id: str,
        *,
        limit: int = PAGE_LIMIT,
        offset: int = 0,
        priority: Priority = page_priority,
    ) -> JobPage:
        """Fetch a page of a job's result, or its status (Wix: "Get List Sessions Job Result").

        Args:
            job_id: the ID from `list_sessions_async`.
            limit: the most IDs in the page, 1 to 1000.
            offset: the number of IDs before the page.
            priority: the priority of the request while it waits for the rate limit. For a poll
                it is the probability that the job is finished.

        Raises:
            RequestError: see the tree in `prefect_wix.errors`.
        """
        params = {"jobId": job_id, "limit": limit, "offset": offset}
        parse = partial(responses.parse_page, limit=limit)
        return await self._call(_RESULT, parse, priority=priority, params=params)

    async def responds(self, *, deadline: float) -> bool:
        """Wait until Wix responds to a read of the Sessions API, at most until the deadline.

        It polls a job that does not exist: Wix rejects that, and it has no effect.
        """
        params = {"jobId": _NO_JOB, "limit": 1, "offset": 0}
        try:
            await self._call(_RESULT, responses.parse_nothing, deadline=deadline, params=params)
        except RequestError as error:
            return not error.temporary
        return True

    async def mark_session_as_recorded(self, session_id: str) -> None:
        """Mark a session as recorded (Wix: "Mark Session As Recorded").

        Raises:
            RequestError: see the tree in `prefect_wix.errors`. After a `ResponseLostError`
                the session may be marked.
        """
        await self._call(_RECORDED, responses.parse_nothing, json={"sessionId": session_id})

    async def mark_recordings_as_deleted(self, session_ids: Sequence[str]) -> None:
        """Mark the recordings of 1 to 100 sessions as deleted (Wix: "Mark Recordings As Deleted").

        Raises:
            ValueError: another number of IDs; any number is marked by
                `prefect_wix.load.mark_recordings`.
            RequestError: see the tree in `prefect_wix.errors`. After a `ResponseLostError`
                the recordings may be marked.
        """
        if isinstance(session_ids, str) or not 1 <= len(session_ids) <= MARK_LIMIT:
            raise ValueError(
                f"Give a list of 1 to {MARK_LIMIT} session IDs. "
                "The flow mark_recordings marks any number."
            )
        await self._call(_DELETED, responses.parse_nothing, json={"sessionIds": list(session_ids)})

    async def get_site_timezone(self) -> str | None:
        """The site's IANA time zone from Site Properties; None where the site has none.

        Raises:
            RequestError: see the tree in `prefect_wix.errors`.
        """
        return await self._call(
            _PROPERTIES, responses.parse_timezone, params={"fields.paths": "timeZone"}
        )

    async def get_site_name(self) -> str:
        """The site's display name from Site Properties; empty where the site has none.

        Raises:
            RequestError: see the tree in `prefect_wix.errors`.
        """
        return await self._call(
            _PROPERTIES, responses.parse_site_name, params={"fields.paths": "siteDisplayName"}
        )

    async def get_total_sessions(self, start: date, end: date, timezone: str) -> dict[date, int]:
        """Wix's count of sessions per local day (Wix: "Get Analytics Data", TOTAL_SESSIONS).

        It needs another permission than the Sessions API.

        Args:
            start: the first local day. Wix rejects a day more than 61 days before today.
            end: the day after the last one.
            timezone: the IANA time zone of the local days.

        Raises:
            RequestError: see the tree in `prefect_wix.errors`.
        """
        params = {
            "measurementTypes": "TOTAL_SESSIONS",
            "dateRange.startDate": str(start),
            "dateRange.endDate": str(end),
            "timeZone": timezone,
        }
        return await self._call(_COUNTS, responses.parse_counts, params=params)

    async def query_sites(self, cursor: str | None = None) -> SitesPage:
        """Fetch a page of the account's sites (Wix: "Query Sites").

        `prefect_wix.client.sites` reads all pages.

        Args:
            cursor: the cursor of the previous page; None for the first page.

        Raises:
            RequestError: see the tree in `prefect_wix.errors`. 403 without `AccountKeyAuth`.
        """
        paging = {"limit": SITES_LIMIT} | ({"cursor": cursor} if cursor else {})
        return await self._call(
            _SITES, responses.parse_sites, json={"query": {"cursorPaging": paging}}
        )

    async def send_unchecked(self, endpoint: str, **content: Any) -> httpx.Response:
        """Send one request at once, and return the response as it is, whatever its status.

        Args:
            endpoint: method and path.
            content: as for httpx; ``auth=None`` omits the key.

        Raises:
            RequestError: it was not sent, or its response was lost.
        """
        self.rate_limiter.count_request()
        return await self._send(endpoint, **content)

    async def _call(
        self,
        endpoint: str,
        parse: Callable[[JsonResponse], T],
        priority: Priority = page_priority,
        *,
        deadline: float | None = None,
        **content: Any,
    ) -> T:
        """Send a request, retry it where `should_retry` allows it, and parse the response.

        With a deadline it is retried until then, if Wix has responded to a request before.
        """
        reads, retries = endpoint not in _WRITES, 0
        storm_until = self.clock.now() + STORM_SECONDS
        while True:
            try:
                await self._acquire_slot(endpoint, priority, deadline)
                return parse(await self._call_once(endpoint, **content))
            except RequestError as error:
                wait = max(backoff(retries), error.retry_after or 0.0)
                ends_in = math.inf if deadline is None else deadline - self.clock.now()
                # Without one response, the base URL may be wrong.
                is_counted = deadline is None or not self.rate_limiter.was_reached
                if isinstance(error, RateLimitError) and self.clock.now() < storm_until:
                    is_counted = self._retries == 0
                is_last = wait >= ends_in or (is_counted and retries >= self._retries)
                if is_last or not should_retry(error, reads=reads, retries=retries):
                    raise
            retries += 1
            await self.clock.sleep(wait)

    async def _acquire_slot(
        self, endpoint: str, priority: Priority, deadline: float | None
    ) -> None:
        seconds = None if deadline is None else deadline - self.clock.now()
        try:
            async with asyncio.timeout(seconds):
                await self.rate_limiter.acquire(priority, global_limiter=self._global_limiter)
        except TimeoutError:
            raise RequestNotSentError(
                f"{endpoint} was not sent: the rate limit or a pause of the site allowed no "
                "request before the deadline. Increase timeout_seconds, or run again later.",
                endpoint=endpoint,
            ) from None

    async def _call_once(self, endpoint: str, **content: Any) -> JsonResponse:
        """Send one request. All requests of the site pause after a temporary error."""
        sent_at = self.clock.now()
        try:
            response = await self._send(endpoint, **content)
            self.rate_limiter.was_reached = True
            if not response.is_success:
                raise responses.error_from_response(response, endpoint)
            parsed = responses.parse_response(response, endpoint, may_be_empty=endpoint in _MARKS)
        except RequestError as error:
            if not error.temporary:
                self.rate_limiter.accepted(sent_at)
                raise
            default = RATE_LIMIT_PAUSE_SECONDS if isinstance(error, RateLimitError) else 0.0
            seconds = default if error.retry_after is None else error.retry_after
            if self.rate_limiter.pause(seconds, sent_at):
                self.log.warning(_PAUSED, error, seconds)
            raise
        self.rate_limiter.accepted(sent_at)
        return parsed

    async def _count_extra_request(self, request: httpx.Request) -> None:
        """Count a request that did not acquire a slot: a token request, or a resend after a 401."""
        if request.extensions.pop(_ACQUIRED, None) is None:
            self.rate_limiter.count_request()

    async def _send(self, endpoint: str, **content: Any) -> httpx.Response:
        is_sent = False

        async def trace(event: str, _: object) -> None:
            nonlocal is_sent
            is_sent = is_sent or event.endswith("send_request_headers.started")

        # A token request has no trace: a timeout before the request itself had no effect.
        extensions = {_ACQUIRED: True, "trace": trace}
        try:
            with without_logged_content():
                method, path = endpoint.split()
                async with asyncio.timeout(self._timeout):
                    return await self._http.request(method, path, extensions=extensions, **content)
        except httpx.RequestError as error:
            failure = _transport_error(error, endpoint)
        except TimeoutError:
            cause = f"timeout after {self._timeout:g} s"
            failure = _response_lost(cause, endpoint) if is_sent else _not_sent(cause, endpoint)
        # Outside of the handlers: errors of httpx hold the request with its key, and Wix's bytes.
        raise failure


@cache
def _tls() -> ssl.SSLContext:
    # Cached: loading the certificate authorities takes 30 ms.
    return httpx.create_ssl_context()


def _transport_error(error: httpx.RequestError, endpoint: str) -> RequestError:
    cause = responses.clean(f"{type(error).__name__}: {error}".removesuffix(": "))
    if error.request.url.path.endswith(TOKEN_PATH):
        return token_error(f"the token request failed ({cause})")
    if isinstance(error, responses.InvalidBodyError):
        request_id = responses.request_id_of(error.response)
        return JsonResponse({}, endpoint, request_id).invalid(str(error))
    if isinstance(error, _NOT_SENT):
        return _not_sent(cause, endpoint)
    return _response_lost(cause, endpoint)


def _not_sent(cause: str, endpoint: str) -> RequestNotSentError:
    return RequestNotSentError(
        f"{endpoint} could not be sent: {cause}. Check the network and the base URL.",
        endpoint=endpoint,
    )


def _response_lost(cause: str, endpoint: str) -> ResponseLostError:
    return ResponseLostError(
        f"The response to {endpoint} was lost: {cause}. The request may have taken effect.",
        endpoint=endpoint,
    )

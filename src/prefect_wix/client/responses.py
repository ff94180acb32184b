"""Parsing of Wix's responses: an httpx response becomes a model or an error of the tree.

Wix's input is untrusted: a body may not be JSON or may not end, an error has several shapes, and
every field may be missing. Three functions make it harmless: `limit_body` for bytes, `clean` for
texts, `_are_ids` for IDs. Requests are sent by `prefect_wix.client.client`.
"""

import json
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, cast

import httpx

from prefect_wix import errors
from prefect_wix.client.masking import mask
from prefect_wix.client.models import SITE_ID, JobPage, JobStatus, Site, SitesPage

LONGEST_RETRY_AFTER_SECONDS = 3600.0
"""The upper limit of ``Retry-After``, so that a wrong header does not stop a site for good."""
BODY_LIMIT = 8 * 2**20
"""The largest body in bytes, before and after decompression. A page of 1,000 IDs has 40 KB."""
TEXT_LIMIT = 500
"""The longest text of Wix in an error, log or record, in characters."""
ID_LIMIT = 200
"""The longest session or job ID, in characters."""
_ENTRIES_LIMIT = 20
"""The most violations in an error, and the most values in the data of one."""
_NOT_JSON = object()
_TERMINAL_CODE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b."
)

_UNAUTHORIZED = "Put a valid one in .env and run `prefect-wix setup`, then run again."
_CONFLICT = "Another request changed it at the same time; check it and try again."
_FORBIDDEN = (
    'Likely causes: the key lacks the permission "Manage Session Recording Analytics", the site '
    "ID is wrong or missing, the site is not in the Sessions beta, or Wix throttles the site."
)
_ERRORS: Mapping[int, tuple[type[errors.StatusError], str]] = {
    400: (errors.BadRequestError, "Correct the request."),
    401: (errors.AuthenticationError, _UNAUTHORIZED),
    403: (errors.PermissionDeniedError, _FORBIDDEN),
    404: (errors.NotFoundError, "Check the ID and the base URL."),
    409: (errors.ConflictError, _CONFLICT),
    428: (errors.PreconditionError, "Check that the app is installed on the site."),
    429: (errors.RateLimitError, "The site exceeded its 200 requests a minute; wait a minute."),
}
_SERVER_ERROR = (errors.ServerError, "Wix failed; try again later.")
_GATEWAY_ERROR = (errors.ServerError, "A gateway failed; check the base URL, or try again later.")
_GATEWAY_STATUSES = (408, 421, 425, 499)
_OTHER = (errors.StatusError, "Wix does not document this status; check the base URL.")


def clean(value: object) -> str:
    """A text of Wix as one printable line of at most 500 characters, without secrets.

    Every text of Wix passes through this function before it reaches an error, a log, a state or a
    record. A number becomes text; another value becomes "".
    """
    if not isinstance(value, str | int | float):
        return ""
    text = _TERMINAL_CODE.sub("", str(value)[: 16 * TEXT_LIMIT])
    text = "".join(one for one in text if one.isprintable() or one.isspace())
    text = mask(" ".join(text.split()))
    return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 1]}…"


def request_id_of(response: httpx.Response) -> str | None:
    """Wix's ID of the request, from the header ``x-wix-request-id``."""
    return clean(response.headers.get("x-wix-request-id")) or None


class InvalidBodyError(httpx.DecodingError):
    """A body is too large, or its compression is unknown or broken. The text contains no bytes."""

    def __init__(self, what: str, response: httpx.Response) -> None:
        super().__init__(what)
        self.response = response


async def limit_body(response: httpx.Response) -> None:
    """Limit and decompress the body while it is read; an event hook for every response.

    Reading the body then raises `InvalidBodyError`. A redirect target is removed, since httpx would
    parse it.
    """
    response.headers.pop("location", None)
    response.stream = _Body(response)


class _Body(httpx.AsyncByteStream):
    """The decompressed bytes of a body, at most ``BODY_LIMIT``."""

    def __init__(self, response: httpx.Response) -> None:
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._response = response
        # httpx would decompress a whole chunk, whatever size it gets.
        self._encoding = response.headers.pop("content-encoding", "identity").strip().lower()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._encoding not in {"identity", "gzip"}:
            raise InvalidBodyError("a body with an unsupported content encoding", self._response)
        unzip = zlib.decompressobj(wbits=31) if self._encoding == "gzip" else None
        received = decoded = 0
        async for chunk in self._stream:
            received += len(chunk)
            try:
                content = unzip.decompress(chunk, BODY_LIMIT + 1) if unzip else chunk
            except zlib.error:
                break
            decoded += len(content)
            if max(received, decoded) > BODY_LIMIT:
                raise InvalidBodyError("a body of more than 8 MiB", self._response)
            yield content
        if unzip and not unzip.eof:
            raise InvalidBodyError("a body with broken compression", self._response)

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass(frozen=True)
class JsonResponse:
    """The JSON object of a successful response, and its endpoint and request ID for errors."""

    body: Mapping[str, Any]
    endpoint: str
    request_id: str | None

    def invalid(self, what: str) -> errors.InvalidResponseError:
        """The error for an undocumented response, which contains ``what``."""
        return errors.InvalidResponseError(
            f"Wix returned {what} for {self.endpoint}. Try again; if it fails again, report "
            f"request ID {self.request_id or 'unknown'} to Wix support.",
            endpoint=self.endpoint,
            request_id=self.request_id,
        )


def parse_response(
    response: httpx.Response, endpoint: str, *, may_be_empty: bool = False
) -> JsonResponse:
    """The JSON object of a successful response.

    Args:
        response: the response.
        endpoint: method and path of the request.
        may_be_empty: an empty body counts as an empty object.

    Raises:
        InvalidResponseError: the body is not a JSON object, for example HTML or truncated JSON.
    """
    body = {} if may_be_empty and not response.content else _parse_json(response)
    parsed = JsonResponse(_mapping(body), endpoint, request_id_of(response))
    if not isinstance(body, dict):
        kind = clean(response.headers.get("content-type")) or "no content type"
        error = parsed.invalid(f"a body that is not a JSON object ({kind})")
        error.temporary = True  # A page of a gateway says nothing about the request.
        raise error
    return parsed


def error_from_response(response: httpx.Response, endpoint: str) -> errors.StatusError:
    """The error of the tree for a response with an error status.

    Args:
        response: the response.
        endpoint: method and path of the request.
    """
    status, request_id = response.status_code, request_id_of(response)
    body = _parse_json(response)
    kind, advice = _SERVER_ERROR if status >= 500 else _ERRORS.get(status, _OTHER)  # noqa: PLR2004
    is_of_wix = isinstance(body, dict)
    if status in _GATEWAY_STATUSES or (kind is errors.NotFoundError and not is_of_wix):
        kind, advice = _GATEWAY_ERROR
    details = _mapping(_mapping(body).get("details"))
    application = _mapping(details.get("applicationError"))
    violations = _parse_violations(details)
    text = clean("; ".join(f"{v.field}: {v.description}" for v in violations))
    text = text or clean(_mapping(body).get("message")) or clean(application.get("description"))
    if body is _NOT_JSON and response.content:
        text = "a body that is not JSON"
    cause = f"Wix returned {status} for {endpoint}"
    if kind is errors.AuthenticationError:
        site_id = response.request.headers.get("wix-site-id")
        whose = f"API key of site {site_id}" if site_id else "token or account key"
        cause = f"Wix rejected the {whose} ({status} for {endpoint})"
    return kind(
        f"{cause}{': ' if text else ''}{text.removesuffix('.')}. {advice}"
        f" (request ID {request_id or 'unknown'})",
        endpoint=endpoint,
        request_id=request_id,
        status=status,
        code=clean(application.get("code")) or None,
        violations=violations,
        retry_after=_parse_retry_after(response),
        empty=not text and not details,
    )


def oauth_error_of(response: httpx.Response) -> str:
    """The field ``error`` of an error response of the token endpoint, or ""."""
    return clean(_mapping(_parse_json(response)).get("error"))


def parse_job_id(response: JsonResponse) -> str:
    """``jobId`` of "List Sessions Async".

    Raises:
        InvalidResponseError: it is missing or not an ID. The job may exist.
    """
    job_id = response.body.get("jobId")
    if not isinstance(job_id, str) or not _are_ids([job_id]) or mask(job_id) != job_id:
        raise response.invalid("no job ID")
    return job_id


def parse_page(response: JsonResponse, limit: int) -> JobPage:
    """The page of "Get List Sessions Job Result". Every field may be missing.

    Raises:
        InvalidResponseError: an entry of ``sessionIds`` is not an ID, or there are more than
            ``limit``.
    """
    result = _mapping(response.body.get("result"))
    ids = result.get("sessionIds") or []
    if not isinstance(ids, list) or not _are_ids(ids):
        raise response.invalid("an invalid session ID")
    if len(ids) > limit:
        raise response.invalid(f"{len(ids):,} session IDs in a page of at most {limit:,}")
    status_text = clean(result.get("jobStatus"))
    return JobPage(
        status=JobStatus(status_text),
        status_text=status_text,
        total=_parse_total(result.get("total")),
        session_ids=tuple(ids),
        request_id=response.request_id,
        reason=clean(result.get("message")) or clean(response.body.get("message")),
    )


def parse_nothing(response: JsonResponse) -> None:
    """No value: a successful response without a body of interest."""


def parse_timezone(response: JsonResponse) -> str | None:
    """``properties.timeZone`` of "Get Site Properties"; None where the site has none."""
    zone = _mapping(response.body.get("properties")).get("timeZone")
    return clean(zone) or None


def parse_site_name(response: JsonResponse) -> str:
    """``properties.siteDisplayName`` of "Get Site Properties"; empty where the site has none."""
    return clean(_mapping(response.body.get("properties")).get("siteDisplayName"))


def parse_counts(response: JsonResponse) -> dict[date, int]:
    """Local day -> ``TOTAL_SESSIONS`` of "Get Analytics Data", for the days in the response.

    Raises:
        InvalidResponseError: a day is not an ISO date, or a value is not a whole number.
    """
    counts: dict[date, int] = {}
    for measured in _mappings(response.body.get("data")):
        if measured.get("type") == "TOTAL_SESSIONS":
            for value in _mappings(measured.get("values")):
                day, count = _parse_day(value.get("date")), _parse_total(value.get("value"))
                if day is None or count is None:
                    raise response.invalid("a count without a valid day and a whole number")
                counts[day] = count
    return counts


def parse_sites(response: JsonResponse) -> SitesPage:
    """The page of "Query Sites".

    Raises:
        InvalidResponseError: there is no list of sites, a site has no valid ID, or the cursor of a
            next page is missing or invalid.
    """
    sites = response.body.get("sites")
    if not isinstance(sites, list):
        raise response.invalid("no list of sites")
    metadata = _mapping(response.body.get("metadata"))
    has_next = metadata.get("hasNext")
    cursor = None if has_next is False else _mapping(metadata.get("cursors")).get("next") or None
    if has_next and cursor is None:
        raise response.invalid("a next page of sites without a cursor")
    if cursor is not None and not (isinstance(cursor, str) and cursor.isprintable()):
        raise response.invalid("an invalid cursor")
    found = tuple(_parse_site(site, response) for site in _mappings(sites))
    return SitesPage(sites=found, cursor=cursor)


def _parse_site(site: Mapping[str, Any], response: JsonResponse) -> Site:
    site_id = clean(site.get("id"))
    if site_id != site.get("id") or not re.fullmatch(SITE_ID, site_id):
        raise response.invalid("a site without a valid ID")
    return Site(id=site_id, name=clean(site.get("displayName")) or clean(site.get("name")))


def _parse_day(value: object) -> date | None:
    with suppress(ValueError):
        return date.fromisoformat(clean(value))
    return None


def _are_ids(values: list[Any]) -> bool:
    try:
        text = "".join(values)
    except TypeError:  # a value is not a string
        return False
    # A printable ID is one line in a text file and one value in a bulk loader. The replacement
    # character stands for invalid bytes, which could make different IDs equal.
    is_short = max(map(len, values), default=0) <= ID_LIMIT
    return all(values) and is_short and text.isprintable() and "\ufffd" not in text


def _parse_total(value: object) -> int | None:
    # Protobuf's JSON encodes a 64-bit integer as a string of digits.
    text = clean(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None  # noqa: PLR2004


def _parse_json(response: httpx.Response) -> object:
    """The body as JSON in UTF-8, whatever charset is declared; ``_NOT_JSON`` if it is not."""
    try:
        return json.loads(response.content.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return _NOT_JSON


def _parse_violations(details: Mapping[str, Any]) -> tuple[errors.Violation, ...]:
    violations = _mapping(details.get("validationError")).get("fieldViolations")
    return tuple(
        errors.Violation(
            field=clean(one.get("field")),
            description=clean(one.get("description")),
            rule=clean(one.get("ruleName") or one.get("violatedRule")) or None,
            data=_parse_data(_mapping(one.get("data"))) or None,
        )
        for one in _mappings(violations)[:_ENTRIES_LIMIT]
    )


def _parse_data(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        clean(name): value if isinstance(value, int | float | None) else clean(value)
        for name, value in islice(data.items(), _ENTRIES_LIMIT)
    }


def _parse_retry_after(response: httpx.Response) -> float | None:
    """``Retry-After`` in seconds, from seconds or an HTTP date; None without a usable header."""
    header = response.headers.get("retry-after", "").strip()
    if header.isascii() and header.isdigit():
        return min(float(header), LONGEST_RETRY_AFTER_SECONDS)
    # The response's own date, since the clock of this machine may be wrong.
    now = _parse_http_date(response.headers.get("date", "")) or datetime.now(UTC)
    if (until := _parse_http_date(header)) is None:
        return None
    return min(max(0.0, (until - now).total_seconds()), LONGEST_RETRY_AFTER_SECONDS)


def _parse_http_date(text: str) -> datetime | None:
    with suppress(ValueError, OverflowError):
        moment = parsedate_to_datetime(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return list(map(_mapping, value)) if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

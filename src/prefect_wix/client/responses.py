"""Parsing of Wix's responses: an httpx response becomes a model or an error of the tree.

Wix's input is untrusted: a body may not be JSON, an error has several shapes, and every field may
be missing. Requests are sent by `prefect_wix.client.client`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from prefect_wix.client.models import JobPage, JobStatus, Site, SitesPage
from prefect_wix.errors import (
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    RateLimitError,
    ServerError,
    StatusError,
    Violation,
)

LONGEST_RETRY_AFTER_SECONDS = 3600.0
"""The upper limit of ``Retry-After``, so that a wrong header does not stop a site for good."""

_FORBIDDEN = (
    'Likely causes: the key lacks the permission "Manage Session Recording Analytics", the site '
    "ID is wrong or missing, the site is not in the Sessions beta, or Wix throttles the site."
)
_ERRORS: Mapping[int, tuple[type[StatusError], str]] = {
    400: (BadRequestError, "Correct the request."),
    401: (AuthenticationError, "The API key or app secret is invalid or expired: replace it."),
    403: (PermissionDeniedError, _FORBIDDEN),
    404: (NotFoundError, "Check the ID and the base URL."),
    409: (ConflictError, "Another request changed it at the same time; check it and try again."),
    428: (PreconditionError, "Check that the app is installed on the site."),
    429: (RateLimitError, "The site exceeded its 200 requests a minute; wait a minute."),
}
_SERVER_ERROR = (ServerError, "Wix failed; try again later.")
_OTHER = (StatusError, "Wix does not document this status; check the base URL.")


def request_id_of(response: httpx.Response) -> str | None:
    """Wix's ID of the request, from the header ``x-wix-request-id``."""
    request_id: str | None = response.headers.get("x-wix-request-id")
    return request_id


@dataclass(frozen=True)
class JsonResponse:
    """The JSON object of a successful response, and its endpoint and request ID for errors."""

    body: Mapping[str, Any]
    endpoint: str
    request_id: str | None

    def invalid(self, what: str) -> InvalidResponseError:
        """The error for an undocumented response, which contains ``what``."""
        return InvalidResponseError(
            f"Wix returned {what} for {self.endpoint}. Try again; if it fails again, report "
            f"request ID {self.request_id or 'unknown'} to Wix support.",
            endpoint=self.endpoint,
            request_id=self.request_id,
        )


def parse_response(response: httpx.Response, endpoint: str) -> JsonResponse:
    """The JSON object of a successful response.

    Raises:
        InvalidResponseError: the body is not a JSON object, for example HTML or truncated JSON.
    """
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = None
    parsed = JsonResponse(_mapping(body), endpoint, request_id_of(response))
    if not isinstance(body, dict):
        kind = response.headers.get("content-type", "no content type")
        raise parsed.invalid(f"a body that is not a JSON object ({kind})")
    return parsed


def error_from_response(
    response: httpx.Response, endpoint: str, *, quoting: bool = True
) -> StatusError:
    """The error of the tree for a response with an error status.

    Args:
        response: the response.
        endpoint: method and path of the request.
        quoting: whether the message quotes Wix's text; False where the request body had a secret.
    """
    status, request_id = response.status_code, request_id_of(response)
    details, text = _details_of(response) if quoting else ({}, "")
    kind, advice = _SERVER_ERROR if status >= 500 else _ERRORS.get(status, _OTHER)  # noqa: PLR2004
    violations = tuple(_parse_violations(details))
    text = "; ".join(f"{v.field}: {v.description}" for v in violations) or text
    return kind(
        f"Wix returned {status} for {endpoint}{': ' if text else ''}{text}. {advice}"
        f" (request ID {request_id or 'unknown'})",
        endpoint=endpoint,
        request_id=request_id,
        status=status,
        code=_mapping(details.get("applicationError")).get("code"),
        violations=violations,
        retry_after=_parse_retry_after(response),
        empty=not text and not details,
    )


def parse_job_id(response: JsonResponse) -> str:
    """``jobId`` of "List Sessions Async".

    Raises:
        InvalidResponseError: it is missing or not printable. The job may exist.
    """
    job_id = response.body.get("jobId")
    if not isinstance(job_id, str) or not job_id or not job_id.isprintable():
        raise response.invalid("no job ID")
    return job_id


def parse_page(response: JsonResponse, limit: int) -> JobPage:
    """The page of "Get List Sessions Job Result". Every field may be missing.

    Raises:
        InvalidResponseError: an entry of ``sessionIds`` is not a non-empty printable string, or
            there are more than ``limit``.
    """
    result = _mapping(response.body.get("result"))
    ids = result.get("sessionIds") or []
    if not isinstance(ids, list) or not _are_ids(ids):
        raise response.invalid("an invalid session ID")
    if len(ids) > limit:
        raise response.invalid(f"{len(ids):,} session IDs in a page of at most {limit:,}")
    status_text = str(result.get("jobStatus"))
    return JobPage(
        status=JobStatus(status_text),
        status_text=status_text,
        total=_parse_total(result.get("total")),
        session_ids=tuple(ids),
        request_id=response.request_id,
    )


def parse_nothing(response: JsonResponse) -> None:
    """No value: a successful response without a body of interest."""


def parse_timezone(response: JsonResponse) -> str | None:
    """``properties.timeZone`` of "Get Site Properties"; None where the site has none."""
    zone = _mapping(response.body.get("properties")).get("timeZone")
    return zone if isinstance(zone, str) and zone else None


def parse_counts(response: JsonResponse) -> dict[date, int]:
    """Local day -> ``TOTAL_SESSIONS`` of "Get Analytics Data", for the days in the response.

    Raises:
        InvalidResponseError: a day is not an ISO date, or a value is not a whole number.
    """
    return {
        _parse_day(value, response): _parse_count(value, response)
        for measured in _mappings(response.body.get("data"))
        if measured.get("type") == "TOTAL_SESSIONS"
        for value in _mappings(measured.get("values"))
    }


def parse_sites(response: JsonResponse) -> SitesPage:
    """The page of "Query Sites".

    Raises:
        InvalidResponseError: there is no list of sites, or a site has no valid ID.
    """
    sites = response.body.get("sites")
    if not isinstance(sites, list):
        raise response.invalid("no list of sites")
    metadata = _mapping(response.body.get("metadata"))
    cursor = _mapping(metadata.get("cursors")).get("next")
    more = isinstance(cursor, str) and cursor != "" and metadata.get("hasNext") is not False
    return SitesPage(
        sites=tuple(_parse_site(site, response) for site in _mappings(sites)),
        cursor=cursor if more else None,
    )


def _parse_site(site: Mapping[str, Any], response: JsonResponse) -> Site:
    site_id, name = site.get("id"), site.get("name")
    if not isinstance(site_id, str) or not _are_ids([site_id]):
        raise response.invalid("a site without a valid ID")
    return Site(id=site_id, name=name if isinstance(name, str) else "")


def _parse_day(value: Mapping[str, Any], response: JsonResponse) -> date:
    try:
        return date.fromisoformat(str(value.get("date")))
    except ValueError:
        raise response.invalid("a count without a valid day") from None


def _parse_count(value: Mapping[str, Any], response: JsonResponse) -> int:
    count = _parse_total(value.get("value"))
    if count is None:
        raise response.invalid("a count that is not a whole number")
    return count


def _are_ids(values: list[Any]) -> bool:
    try:
        text = "".join(values)
    except TypeError:  # a value is not a string
        return False
    # A printable ID is one line in a text file and one value in a bulk loader.
    return all(values) and text.isprintable()


def _parse_total(value: object) -> int | None:
    # Protobuf's JSON encodes a 64-bit integer as a string of digits.
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None  # noqa: PLR2004


def _details_of(response: httpx.Response) -> tuple[Mapping[str, Any], str]:
    try:
        body = _mapping(json.loads(_masked_text(response)))
    except (ValueError, RecursionError):
        return {}, "a body that is not JSON" if response.content else ""
    message = body.get("message")
    details = _mapping(body.get("details"))
    described = _mapping(details.get("applicationError")).get("description")
    return details, str(message or described or "")


def _masked_text(response: httpx.Response) -> str:
    """The body's text with the request's key masked, since a server can echo it."""
    key = response.request.headers.get("authorization")
    return response.text.replace(key, "***") if key else response.text


def _parse_violations(details: Mapping[str, Any]) -> list[Violation]:
    violations = _mapping(details.get("validationError")).get("fieldViolations")
    return list(map(_parse_violation, _mappings(violations)))


def _parse_violation(violation: Mapping[str, Any]) -> Violation:
    data = violation.get("data")
    return Violation(
        field=str(violation.get("field", "")),
        description=str(violation.get("description", "")),
        rule=violation.get("ruleName") or violation.get("violatedRule"),
        data=data if isinstance(data, dict) else None,
    )


def _parse_retry_after(response: httpx.Response) -> float | None:
    """``Retry-After`` in seconds, from seconds or an HTTP date; None without a usable header."""
    header = response.headers.get("retry-after", "").strip()
    if header.isascii() and header.isdigit():
        return min(float(header), LONGEST_RETRY_AFTER_SECONDS)
    try:
        until = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    seconds = (until - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER_SECONDS)


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return list(map(_mapping, value)) if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

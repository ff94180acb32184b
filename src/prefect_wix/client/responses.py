"""Reading what Wix answers: JSON that may not be JSON, errors of several shapes, loose fields.

Turns an httpx response into plain values or into an error of the tree; sends nothing itself.
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

__all__ = [
    "JsonResponse",
    "error_from_response",
    "parse_counts",
    "parse_job_id",
    "parse_nothing",
    "parse_page",
    "parse_response",
    "parse_sites",
    "parse_timezone",
    "request_id_of",
]

LONGEST_RETRY_AFTER_SECONDS = 3600.0
"""No hint holds a site's requests for longer: one absurd header must not stop it for good."""

_FORBIDDEN = (
    'Likely causes: the key lacks the permission "Manage Session Recording Analytics", the site '
    "id is wrong or missing, the site is not in the Sessions beta, or Wix throttles."
)
_ERRORS: Mapping[int, tuple[type[StatusError], str]] = {
    400: (BadRequestError, "Correct the request."),
    401: (AuthenticationError, "Check the API key or the app secret: it is wrong or expired."),
    403: (PermissionDeniedError, _FORBIDDEN),
    404: (NotFoundError, "Check the id and the base URL."),
    409: (ConflictError, "Something else changed it at the same time; look and try again."),
    428: (PreconditionError, "A precondition failed; mostly the app is not installed."),
    429: (RateLimitError, "The site's budget of 200 requests a minute is spent; wait a minute."),
}
_SERVER_ERROR = (ServerError, "Wix has a problem of its own; try again later.")
_OTHER = (StatusError, "This answer is not documented; check the base URL.")


def request_id_of(response: httpx.Response) -> str | None:
    """Wix's id of the request, which comes with every answer."""
    request_id: str | None = response.headers.get("x-wix-request-id")
    return request_id


@dataclass(frozen=True)
class JsonResponse:
    """A successful answer: its JSON object, and what to call it by in an error."""

    body: Mapping[str, Any]
    endpoint: str
    request_id: str | None

    def invalid(self, what: str) -> InvalidResponseError:
        """The error that says Wix answered ``what`` here."""
        return InvalidResponseError(
            f"Wix answered {what} to {self.endpoint}. Try again; if it stays so, give Wix the "
            f"request id {self.request_id or 'unknown'}.",
            endpoint=self.endpoint,
            request_id=self.request_id,
        )


def parse_response(response: httpx.Response, endpoint: str) -> JsonResponse:
    """The JSON object of a successful response.

    Raises:
        InvalidResponseError: the body is HTML, cut off, or anything but a JSON object.
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
    """The error of the tree for a reply whose status is not a success.

    Args:
        endpoint: what was asked.
        quoting: whether the message may hold what Wix says. Not where a secret was in the body.
    """
    status, request_id = response.status_code, request_id_of(response)
    details, said = _details_of(response) if quoting else ({}, "")
    kind, advice = _SERVER_ERROR if status >= 500 else _ERRORS.get(status, _OTHER)  # noqa: PLR2004
    violations = tuple(_parse_violations(details))
    said = "; ".join(f"{v.field}: {v.description}" for v in violations) or said
    return kind(
        f"Wix answered {status} to {endpoint}{': ' if said else ''}{said}. {advice}"
        f" (request id {request_id or 'unknown'})",
        endpoint=endpoint,
        request_id=request_id,
        status=status,
        code=_mapping(details.get("applicationError")).get("code"),
        violations=violations,
        retry_after=_parse_retry_after(response),
        empty=not said and not details,
    )


def parse_job_id(response: JsonResponse) -> str:
    """``jobId`` of "List Sessions Async".

    Raises:
        InvalidResponseError: there is none. The job may exist all the same.
    """
    job_id = response.body.get("jobId")
    if not isinstance(job_id, str) or not job_id or not job_id.isprintable():
        raise response.invalid("no job id")
    return job_id


def parse_page(response: JsonResponse) -> JobPage:
    """The page of "Get List Sessions Job Result". Every field may be missing.

    Raises:
        InvalidResponseError: an entry of ``sessionIds`` is not an id; none is made up or dropped.
    """
    result = _mapping(response.body.get("result"))
    ids = result.get("sessionIds") or []
    if not isinstance(ids, list) or not _are_ids(ids):
        raise response.invalid("something that is not a session id")
    status_text = str(result.get("jobStatus"))
    return JobPage(
        status=JobStatus(status_text),
        status_text=status_text,
        total=_parse_total(result.get("total")),
        session_ids=tuple(ids),
        request_id=response.request_id,
    )


def parse_nothing(response: JsonResponse) -> None:
    """A reply that says no more than that it was done."""


def parse_timezone(response: JsonResponse) -> str | None:
    """``properties.timeZone`` of "Get Site Properties", or None where the site has none."""
    zone = _mapping(response.body.get("properties")).get("timeZone")
    return zone if isinstance(zone, str) and zone else None


def parse_counts(response: JsonResponse) -> dict[date, int]:
    """Day -> ``TOTAL_SESSIONS`` of "Get Analytics Data"; without days that Wix tells nothing of.

    Raises:
        InvalidResponseError: a day or a value is not what it should be; none is made up.
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
        InvalidResponseError: an entry has no id, or there is no list; no site is dropped.
    """
    sites = response.body.get("sites")
    if not isinstance(sites, list):
        raise response.invalid("no list of sites")
    metadata = _mapping(response.body.get("metadata"))
    cursor = _mapping(metadata.get("cursors")).get("next")
    more = isinstance(cursor, str) and cursor != "" and metadata.get("hasNext") is not False
    return SitesPage(
        sites=tuple(_parse_site(one, response) for one in _mappings(sites)),
        cursor=cursor if more else None,
    )


def _parse_site(site: Mapping[str, Any], response: JsonResponse) -> Site:
    site_id, name = site.get("id"), site.get("name")
    if not isinstance(site_id, str) or not _are_ids([site_id]):
        raise response.invalid("a site without an id")
    return Site(id=site_id, name=name if isinstance(name, str) else "")


def _parse_day(value: Mapping[str, Any], response: JsonResponse) -> date:
    try:
        return date.fromisoformat(str(value.get("date")))
    except ValueError:
        raise response.invalid("a count without its day") from None


def _parse_count(value: Mapping[str, Any], response: JsonResponse) -> int:
    count = _parse_total(value.get("value"))
    if count is None:
        raise response.invalid("a count that is not a number")
    return count


def _are_ids(values: list[Any]) -> bool:
    try:
        text = "".join(values)
    except TypeError:  # not all of them are text
        return False
    # Printable, so that an id is one line in every file and one value in every loader.
    return all(values) and text.isprintable()


def _parse_total(value: object) -> int | None:
    # JSON made from a 64-bit integer is a string of digits.
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
    """The body's text. A server that repeats the key it was sent does not get it into an error."""
    key = response.request.headers.get("authorization")
    return response.text.replace(key, "***") if key else response.text


def _parse_violations(details: Mapping[str, Any]) -> list[Violation]:
    found = _mapping(details.get("validationError")).get("fieldViolations")
    return [_parse_violation(_mapping(one)) for one in (found if isinstance(found, list) else [])]


def _parse_violation(violation: Mapping[str, Any]) -> Violation:
    data = violation.get("data")
    return Violation(
        field=str(violation.get("field", "")),
        description=str(violation.get("description", "")),
        rule=violation.get("ruleName") or violation.get("violatedRule"),
        data=data if isinstance(data, dict) else None,
    )


def _parse_retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait, from seconds or an HTTP date; None where there is no usable hint."""
    hint = response.headers.get("retry-after", "").strip()
    if hint.isascii() and hint.isdigit():
        return min(float(hint), LONGEST_RETRY_AFTER_SECONDS)
    try:
        until = parsedate_to_datetime(hint)
    except (ValueError, OverflowError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    seconds = (until - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), LONGEST_RETRY_AFTER_SECONDS)


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return list(map(_mapping, value)) if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

"""Responses as plain values, and the error bodies that Wix documents.

`requests`, `service` and `faults` decide when to return an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EMPTY_ERROR = {"message": "", "details": {}}
"""The body of every 5xx and 403. Wix leaves it empty by design."""


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """One HTTP response, and how much of it is sent."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    delivery: Literal["whole", "cut", "never"] = "whole"
    """`cut` closes the connection in the middle of the body, `never` before the first byte."""


class ApiError(Exception):
    """A request fails with this HTTP status and JSON body."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


def json_response(status: int, body: object, **headers: str) -> ApiResponse:
    """Return a response with a JSON body."""
    return ApiResponse(status, orjson.dumps(body), headers)


def application_error(status: int, code: str, description: str) -> ApiError:
    """Return an application error, such as an unknown job."""
    error = {"code": code, "description": description, "data": {}}
    return ApiError(status, {"message": description, "details": {"applicationError": error}})


def unauthenticated() -> ApiError:
    """401: the credentials are missing, invalid or expired."""
    return application_error(401, "UNAUTHENTICATED", "Missing, invalid or expired credentials")


def forbidden() -> ApiError:
    """403: no permission, or a missing or unexpected header. All have the same body."""
    return ApiError(403, EMPTY_ERROR)


def too_many_requests() -> ApiError:
    """429: the site exceeded its rate limit."""
    return application_error(429, "RESOURCE_EXHAUSTED", "Too many requests, try again later")


def violation(field: str, rule: str, description: str, **data: object) -> dict[str, Any]:
    """Return one field violation. `rule` is one of Wix's rule names."""
    entry = {"field": field, "description": description, "violatedRule": rule}
    return entry | ({"data": data} if data else {})


def validation_error(violations: Sequence[Mapping[str, Any]]) -> ApiError:
    """400: all field violations of a request."""
    message = "; ".join(f"{entry['field']} {entry['description']}" for entry in violations)
    error = {"fieldViolations": list(violations)}
    return ApiError(400, {"message": message, "details": {"validationError": error}})


def oauth_error(status: int, error: str, description: str) -> ApiError:
    """Return an error of the token endpoint."""
    return ApiError(status, {"error": error, "error_description": description})

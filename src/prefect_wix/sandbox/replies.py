"""The shapes of Wix's answers: a reply ready to send, and the documented error bodies.

When an error is due is decided in `requests`, `service` and `faults`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EMPTY_ERROR = {"message": "", "details": {}}
"""The body of every 5xx and 403: it tells nothing, by design."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer, and how its connection ends."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    delivery: Literal["whole", "cut", "never"] = "whole"
    """`cut` closes the connection in the middle of the body, `never` before the first byte."""


class Refusal(Exception):  # noqa: N818
    """A request that is answered with an error."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


def reply(status: int, body: object, **headers: str) -> Reply:
    """A JSON answer."""
    return Reply(status, orjson.dumps(body), headers)


def application_error(status: int, code: str, description: str) -> Refusal:
    """An error of the application, such as an unknown job."""
    error = {"code": code, "description": description, "data": {}}
    return Refusal(status, {"message": description, "details": {"applicationError": error}})


def unauthenticated() -> Refusal:
    """401: there are credentials, and they are wrong or too old."""
    return application_error(401, "UNAUTHENTICATED", "The credentials are wrong or too old")


def forbidden() -> Refusal:
    """403: no permission, or a missing header. The body is the same."""
    return Refusal(403, EMPTY_ERROR)


def too_many_requests() -> Refusal:
    """429: the request budget is spent."""
    return application_error(429, "RATE_LIMIT_EXCEEDED", "Too many requests, try again later")


def violation(field: str, rule: str, description: str, **data: object) -> dict[str, Any]:
    """One thing that is wrong with a request, under one of Wix's rule names."""
    found = {"field": field, "description": description, "violatedRule": rule}
    return found | ({"data": data} if data else {})


def invalid(violations: Sequence[Mapping[str, Any]]) -> Refusal:
    """400: everything that is wrong with a request."""
    message = "; ".join(f"{each['field']} {each['description']}" for each in violations)
    error = {"fieldViolations": list(violations)}
    return Refusal(400, {"message": message, "details": {"validationError": error}})


def oauth_error(status: int, error: str, description: str) -> Refusal:
    """An error of the token endpoint."""
    return Refusal(status, {"error": error, "error_description": description})

"""Everything that can go wrong, in one tree.

    WixError
    ├── RequestError                one call to Wix did not succeed
    │   ├── RequestNotSentError            it never reached Wix: safe to send again
    │   ├── ResponseLostError          it was sent, no whole reply came: it may have taken effect
    │   ├── InvalidResponseError    a reply came that is not the documented JSON
    │   └── StatusError             Wix answered with an error status
    │       ├── BadRequestError     400
    │       ├── AuthenticationError 401, and every refusal of the token endpoint
    │       ├── PermissionDeniedError 403
    │       ├── NotFoundError       404
    │       ├── ConflictError       409
    │       ├── PreconditionError   428
    │       ├── RateLimitError      429
    │       └── ServerError         5xx
    ├── ListingError                a job did not end in a complete listing
    │   ├── JobFailedError          Wix gave the job the status ERROR
    │   ├── JobTimeoutError         the deadline passed (also a TimeoutError)
    │   ├── UnknownJobError         Wix does not know the job (any more)
    │   ├── IncompleteListingError  ids and total do not agree, however often it is drained
    │   ├── DaysFailedError         days of a window can't be listed, not even by themselves
    │   └── SpoolError              the local disk could not hold the ids
    ├── MarkError                   some recordings could not be marked
    ├── IdSourceError                 ids could not be read from where they were said to be
    ├── OutputError                 a listing could not be written to its file
    ├── WarehouseError              sessions could not be landed
    │   ├── WarehouseBusyError      another process holds it past the deadline
    │   ├── WarehouseAccessError    wrong password, read-only, no such place, disk full
    │   ├── WarehouseSchemaError    its tables are not the ones this version writes
    │   └── WarehouseUnsupportedError  a feature that this kind of warehouse does not have
    ├── LoadLimitError           a load would take more than it may without a word
    ├── LoadError                   some partitions of a load did not land
    ├── SitesError                  some sites of an account were not loaded
    ├── CompletenessError           landed segments contradict each other, and that is not wanted
    └── MissingExtraError           a feature needs a package that is not installed

Every message says what happened, to which request or job, and what to do next. No message,
attribute or cause carries a credential. Every error survives pickling.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

__all__ = [
    "AuthenticationError",
    "BadRequestError",
    "CompletenessError",
    "ConflictError",
    "DaysFailedError",
    "IdSourceError",
    "IncompleteListingError",
    "InvalidResponseError",
    "JobFailedError",
    "JobTimeoutError",
    "ListingError",
    "LoadError",
    "LoadLimitError",
    "MarkError",
    "MissingExtraError",
    "NotFoundError",
    "OutputError",
    "PermissionDeniedError",
    "PreconditionError",
    "RateLimitError",
    "RequestError",
    "RequestNotSentError",
    "ResponseLostError",
    "ServerError",
    "SitesError",
    "SpoolError",
    "StatusError",
    "UnknownJobError",
    "Violation",
    "WarehouseAccessError",
    "WarehouseBusyError",
    "WarehouseError",
    "WarehouseSchemaError",
    "WarehouseUnsupportedError",
    "WixError",
]


class WixError(Exception):
    """The root of the tree. ``str()`` is one message for a person."""


class RequestError(WixError):
    """One call to Wix did not succeed.

    Attributes:
        endpoint: which call, as method and path, e.g. ``GET /analytics/v1/sessions/list/result``.
        request_id: Wix's ``x-wix-request-id``, to quote to Wix support; None without a reply.
        safe_to_resend: it surely had no effect, so it may be sent again.
        may_have_taken_effect: nobody can say whether Wix acted on it.
        worth_retrying: a read may well succeed when it is asked again.
        holds_for_site: every other request of the site would be refused in the same way.
    """

    safe_to_resend = False
    affects_site = False
    may_have_taken_effect = False
    retryable = False

    def __init__(
        self, message: str, *, endpoint: str | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.endpoint = endpoint
        self.request_id = request_id


class RequestNotSentError(RequestError):
    """The request never reached Wix: no connection could be made."""

    safe_to_resend = True
    retryable = True


class ResponseLostError(RequestError):
    """The request was sent, but no whole reply came back. It may have taken effect."""

    may_have_taken_effect = True
    retryable = True


class InvalidResponseError(RequestError):
    """Wix answered something that is not the documented JSON. The request may have taken effect."""

    may_have_taken_effect = True
    retryable = True


@dataclass(frozen=True)
class Violation:
    """One rule that a request broke, as Wix names it (``validationError.fieldViolations``)."""

    field: str
    description: str
    rule: str | None = None
    data: dict[str, Any] | None = None


class StatusError(RequestError):
    """Wix answered with an error status.

    Attributes:
        status: the HTTP status.
        code: Wix's ``applicationError.code``, where there was one.
        violations: the broken rules of a 400, where Wix named them.
        retry_after: seconds that the reply's ``Retry-After`` asked to wait, where there was one.
        empty: the reply said nothing at all (``{"message": "", "details": {}}``).
    """

    def __init__(
        self,
        message: str,
        *,
        endpoint: str | None = None,
        request_id: str | None = None,
        status: int = 0,
        code: str | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
        empty: bool = False,
    ) -> None:
        super().__init__(message, endpoint=endpoint, request_id=request_id)
        self.status = status
        self.code = code
        self.violations = violations
        self.retry_after = retry_after
        self.empty = empty


class BadRequestError(StatusError):
    """400: the request breaks one of Wix's rules; see ``violations``."""


class AuthenticationError(StatusError):
    """401: the key or token is missing, wrong or expired; or the token endpoint refused."""

    affects_site = True


class PermissionDeniedError(StatusError):
    """403: no permission, a missing header, or (with an empty body) sometimes throttling."""

    affects_site = True

    @property
    def retryable(self) -> bool:  # type: ignore[override]
        """An empty 403 is sometimes Wix's way to throttle, so a read may be asked again."""
        return self.empty


class NotFoundError(StatusError):
    """404."""


class ConflictError(StatusError):
    """409."""


class PreconditionError(StatusError):
    """428: a precondition failed; mostly the app is not installed on the site."""

    affects_site = True


class RateLimitError(StatusError):
    """429: more requests than the site's budget (200 a minute) allows. It had no effect."""

    safe_to_resend = True
    retryable = True


class ServerError(StatusError):
    """5xx. Only 503 says that the request was not taken at all; 504 asks for a smaller page."""

    @property
    def safe_to_resend(self) -> bool:  # type: ignore[override]
        """Only 503 says that the request had no effect."""
        return self.status == 503  # noqa: PLR2004

    @property
    def may_have_taken_effect(self) -> bool:  # type: ignore[override]
        """Any other failure may have come after the deed."""
        return not self.safe_to_resend

    @property
    def retryable(self) -> bool:  # type: ignore[override]
        """Not a 504 as it stands: Wix says to ask for less."""
        return self.status != 504  # noqa: PLR2004


class ListingError(WixError):
    """A job did not end in a complete listing; nothing of it may be used.

    Attributes:
        job_id: the job, to look it up or to quote; None when no job could be started.
        request_id: the last ``x-wix-request-id`` seen for it.
    """

    def __init__(
        self, message: str, *, job_id: str | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.request_id = request_id


class JobFailedError(ListingError):
    """Wix gave the job the status ERROR. Wix names no reason."""


class JobTimeoutError(ListingError, TimeoutError):
    """The job was not finished and drained before its deadline. It may still be running."""


class UnknownJobError(ListingError):
    """Wix does not know the job: it was never made, or it has been forgotten."""


class IncompleteListingError(ListingError):
    """The ids received and the total Wix names do not agree.

    Attributes:
        received: distinct ids received.
        total: the total Wix named last; None where it named none.
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str | None = None,
        request_id: str | None = None,
        received: int = 0,
        total: int | None = None,
    ) -> None:
        super().__init__(message, job_id=job_id, request_id=request_id)
        self.received = received
        self.total = total


class DaysFailedError(ListingError):
    """A window failed as a whole, and so did days of it by themselves. Nothing of it is used.

    Attributes:
        days: those that failed when they were asked for alone, oldest first.
        untried: those that it was not found out of whether they fail, oldest first.
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str | None = None,
        request_id: str | None = None,
        days: tuple[date, ...] = (),
        untried: tuple[date, ...] = (),
    ) -> None:
        super().__init__(message, job_id=job_id, request_id=request_id)
        self.days = days
        self.untried = untried


class SpoolError(ListingError):
    """The local disk could not hold the ids of a listing."""


class MarkError(WixError):
    """Some of the ids of a mark call did not go through.

    Attributes:
        outcomes: what became of every call, as ``prefect_wix.client.models.MarkOutcome``.
    """

    def __init__(self, message: str, *, outcomes: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.outcomes = outcomes


class IdSourceError(WixError):
    """The ids to mark could not be read from the file or the query that was named."""


class OutputError(WixError):
    """A listing could not be written to the file that was asked for."""


class WarehouseError(WixError):
    """Sessions could not be landed; the warehouse holds what it held before."""


class WarehouseBusyError(WarehouseError):
    """Another process holds the warehouse, and did not let go before the deadline."""


class WarehouseAccessError(WarehouseError):
    """The warehouse can't be reached or written: password, rights, path or a full disk."""


class WarehouseSchemaError(WarehouseError):
    """The tables are not the ones this version writes: a newer version, or altered by hand."""


class WarehouseUnsupportedError(WarehouseError):
    """A feature that this kind of warehouse does not have; the message names those that do."""


class LoadLimitError(WixError):
    """A load would take more requests than it may without being told so. Nothing was asked for."""


class LoadError(WixError):
    """Some partitions of a load did not land; the others did, and a rerun takes up these.

    Attributes:
        failures: partition (as text) -> what went wrong.
        outcomes: what became of every partition, as ``prefect_wix.load.loader.PartitionResult``.
    """

    def __init__(
        self,
        message: str,
        *,
        failures: dict[str, str] | None = None,
        outcomes: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(message)
        self.failures = failures or {}
        self.outcomes = outcomes


class SitesError(WixError):
    """Some sites of an account were not loaded, or not whole; the others were.

    Attributes:
        failures: site id -> what went wrong.
    """

    def __init__(self, message: str, *, failures: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.failures = failures or {}


class CompletenessError(WixError):
    """Landed segments contradict each other, where the caller asked to fail on that.

    Everything was computed and stored; the certificate has the counter-examples.
    """


class MissingExtraError(WixError, ImportError):
    """A feature needs a package that is not installed; the message names the command."""

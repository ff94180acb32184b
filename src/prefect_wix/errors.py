"""Every error that this package raises, in one tree.

    WixError
    ├── RequestError                one request to Wix failed
    │   ├── RequestNotSentError     it did not reach Wix: safe to send again
    │   ├── ResponseLostError       it was sent, but no complete response arrived
    │   ├── InvalidResponseError    the response is not the documented JSON
    │   └── StatusError             Wix returned an error status
    │       ├── BadRequestError     400
    │       ├── AuthenticationError 401, and every rejection by the token endpoint
    │       ├── PermissionDeniedError 403
    │       ├── NotFoundError       404
    │       ├── ConflictError       409
    │       ├── PreconditionError   428
    │       ├── RateLimitError      429
    │       └── ServerError         5xx, 408, 421, 425, 499, and a 404 that is not of Wix
    ├── ListingError                a job did not end in a complete listing
    │   ├── JobFailedError          the job has the status ERROR
    │   ├── JobTimeoutError         the deadline passed (also a TimeoutError)
    │   ├── UnknownJobError         Wix has no such job, or no longer has it
    │   ├── IncompleteListingError  the IDs received do not match the total
    │   ├── DaysFailedError         days of a window failed even as jobs of their own
    │   └── SpoolError              the IDs could not be written to the local disk
    ├── MarkError                   some recordings could not be marked
    ├── IdSourceError               session IDs could not be read from a file or query
    ├── OutputError                 a listing could not be written to its file
    ├── WarehouseError              sessions could not be published to the warehouse
    │   ├── WarehouseBusyError      another process held it past the deadline
    │   ├── WarehouseAccessError    wrong password, missing rights, outage, wrong path, disk full
    │   ├── WarehouseSchemaError    its tables do not match this version
    │   └── WarehouseUnsupportedError  this kind of warehouse lacks the feature
    ├── LoadLimitError              a load needs more requests than its limit
    ├── LoadError                   some partitions of a load failed
    ├── SitesError                  some sites of an account failed
    ├── CompletenessError           loaded segments contradict each other
    ├── DeploymentError             the Prefect server lacks what a deployment needs
    └── MissingExtraError           a feature needs a package that is not installed

A message states the cause, the request or job, and what to do. No message, attribute or cause
contains a credential. Every error can be pickled.
"""

from dataclasses import dataclass, field
from datetime import date
from importlib import import_module
from typing import Any


@dataclass(eq=False, repr=False)
class WixError(Exception):
    """The base class of all errors of this package."""

    message: str

    def __post_init__(self) -> None:
        super().__init__(self.message)


@dataclass(eq=False, repr=False, kw_only=True)
class RequestError(WixError):
    """One request to Wix failed.

    Attributes:
        endpoint: method and path, e.g. ``GET /analytics/v1/sessions/list/result``.
        request_id: Wix's ``x-wix-request-id``, for Wix support; None without a response.
        retry_after: ``Retry-After`` in seconds; None without a usable header.
        safe_to_resend: the request had no effect, so that even a write can be sent again.
        may_have_taken_effect: it is unknown whether Wix executed the request.
        retryable: a read can succeed when it is sent again.
        temporary: so it can after a long outage; a job is waited for until its deadline.
        affects_site: every other request of the site would fail in the same way.
    """

    safe_to_resend = False
    affects_site = False
    may_have_taken_effect = False
    retryable = False
    temporary = False

    endpoint: str | None = None
    request_id: str | None = None
    retry_after: float | None = None


class RequestNotSentError(RequestError):
    """The request did not reach Wix, for example because no connection could be opened."""

    safe_to_resend = True
    retryable = True
    temporary = True


class ResponseLostError(RequestError):
    """The request was sent, but no complete response arrived. It may have taken effect."""

    may_have_taken_effect = True
    retryable = True
    temporary = True


class InvalidResponseError(RequestError):
    """The response is not the documented JSON, or too large. The request may have taken effect."""

    may_have_taken_effect = True
    retryable = True


@dataclass(frozen=True)
class Violation:
    """One validation rule that a request broke (Wix: ``validationError.fieldViolations``)."""

    field: str
    description: str
    rule: str | None = None
    data: dict[str, Any] | None = None


@dataclass(eq=False, repr=False, kw_only=True)
class StatusError(RequestError):
    """Wix returned an error status.

    Attributes:
        status: the HTTP status.
        code: Wix's ``applicationError.code``; None without one.
        violations: the validation rules that the request broke; empty where Wix names none.
        empty: the body has neither a message nor details (``{"message": "", "details": {}}``).
    """

    status: int = 0
    code: str | None = None
    violations: tuple[Violation, ...] = ()
    empty: bool = False


class BadRequestError(StatusError):
    """400: the request broke a validation rule; see ``violations``."""


class AuthenticationError(StatusError):
    """401: the key or token is missing, invalid or expired; or the token endpoint rejected it."""

    affects_site = True


class PermissionDeniedError(StatusError):
    """403: a missing permission or header, or, with an empty body, sometimes throttling."""

    affects_site = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.retryable = self.empty


class NotFoundError(StatusError):
    """404."""


class ConflictError(StatusError):
    """409."""


class PreconditionError(StatusError):
    """428: a precondition failed; usually the app is not installed on the site."""

    affects_site = True


class RateLimitError(StatusError):
    """429: the site's rate limit (200 requests a minute) was exceeded. It had no effect."""

    safe_to_resend = True
    retryable = True
    temporary = True


class ServerError(StatusError):
    """5xx, or a status of a gateway before Wix: 408, 421, 425, 499, a 404 without JSON.

    A 503 means that the request had no effect; other statuses can follow an executed one. After a
    504 the request must be made smaller, as Wix documents.
    """

    temporary = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.safe_to_resend = self.status == 503  # noqa: PLR2004
        self.may_have_taken_effect = not self.safe_to_resend
        self.retryable = self.status != 504  # noqa: PLR2004


@dataclass(eq=False, repr=False, kw_only=True)
class ListingError(WixError):
    """A job did not end in a complete listing; no part of its result is used.

    Attributes:
        job_id: Wix's ID of the job; None when no job was created.
        request_id: the last ``x-wix-request-id`` of the job.
    """

    job_id: str | None = None
    request_id: str | None = None


class JobFailedError(ListingError):
    """The job has the status ERROR. Wix gives no reason."""


class JobTimeoutError(ListingError, TimeoutError):
    """The job's pages were not all read before the deadline. The job may still be running."""


class UnknownJobError(ListingError):
    """Wix has no such job: it was not created, or Wix no longer keeps it."""


@dataclass(eq=False, repr=False, kw_only=True)
class IncompleteListingError(ListingError):
    """The IDs received do not match the total that Wix reported, or no page ended the list.

    Attributes:
        received: distinct IDs received.
        total: the last total that Wix reported; None without one.
    """

    received: int = 0
    total: int | None = None


@dataclass(eq=False, repr=False, kw_only=True)
class DaysFailedError(ListingError):
    """A window failed, and so did some of its days as jobs of their own. No result is used.

    Attributes:
        days: the days whose own jobs failed, oldest first.
        untried: the days without a job of their own, oldest first.
    """

    days: tuple[date, ...] = ()
    untried: tuple[date, ...] = ()


class SpoolError(ListingError):
    """The IDs of a listing could not be written to the local disk."""


class MarkError(WixError):
    """Some session IDs could not be marked."""


class IdSourceError(WixError):
    """The session IDs to mark could not be read from the given file or query."""


class OutputError(WixError):
    """A listing could not be written to its output file."""


@dataclass(eq=False, repr=False, kw_only=True)
class WarehouseError(WixError):
    """Sessions could not be published; the warehouse is unchanged.

    Attributes:
        affects_all: every other partition would fail in the same way.
    """

    affects_all: bool = False


class WarehouseBusyError(WarehouseError):
    """Another process held the lock on the warehouse past the deadline."""


@dataclass(eq=False, repr=False, kw_only=True)
class WarehouseAccessError(WarehouseError):
    """The warehouse cannot be reached or written: password, rights, outage, path, full disk."""

    affects_all: bool = True


@dataclass(eq=False, repr=False, kw_only=True)
class WarehouseSchemaError(WarehouseError):
    """The tables do not match this version: a newer version wrote them, or they were edited."""

    affects_all: bool = True


class WarehouseUnsupportedError(WarehouseError):
    """This kind of warehouse lacks the feature; the message names the kinds that have it."""


class LoadLimitError(WixError):
    """A load needs more requests than its limit. Nothing was submitted."""


@dataclass(eq=False, repr=False, kw_only=True)
class LoadError(WixError):
    """Some partitions of a load failed. The others are published; a rerun loads the failed ones.

    Attributes:
        failures: partition (as text) -> error message.
        outcomes: one ``prefect_wix.load.loader.PartitionResult`` a partition.
    """

    failures: dict[str, str] = field(default_factory=dict)
    outcomes: tuple[Any, ...] = ()


@dataclass(eq=False, repr=False, kw_only=True)
class SitesError(WixError):
    """Some sites of an account were not loaded completely. The others were.

    Attributes:
        failures: site ID -> error message.
    """

    failures: dict[str, str] = field(default_factory=dict)


class CompletenessError(WixError):
    """Loaded segments contradict each other, and the caller chose to fail on that.

    All profiles are stored; the certificate lists the counter-examples.
    """


class DeploymentError(WixError):
    """The Prefect server lacks what a deployment needs, or has it in a conflicting way."""


class MissingExtraError(WixError, ImportError):
    """A feature needs a package that is not installed; the message names the install command."""


def import_extra(module: str, *, extra: str, what_for: str) -> Any:
    """The imported module of an optional package.

    Args:
        module: the module's name.
        extra: the extra of prefect-wix that installs it.
        what_for: the feature that needs it, as the subject of the error message.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{what_for} needs the package {module}. Run: pip install 'prefect-wix[{extra}]'"
        ) from error

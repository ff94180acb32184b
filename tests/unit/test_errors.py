"""The tree of errors: documented, exported and picklable."""

from __future__ import annotations

import inspect
import pickle
import re
from datetime import date

import cloudpickle
import pytest

from prefect_wix import errors
from prefect_wix.client.models import MarkOutcome, MarkState
from prefect_wix.errors import (
    ConflictError,
    DaysFailedError,
    IncompleteListingError,
    InvalidResponseError,
    JobFailedError,
    JobTimeoutError,
    LoadError,
    MissingExtraError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestNotSentError,
    ResponseLostError,
    ServerError,
    StatusError,
    Violation,
    WixError,
)

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, Exception)
]
OUTCOME = MarkOutcome(session_ids=("a",), state=MarkState.REFUSED, reason="no", request_id="r1")
VIOLATION = Violation("limit", "is too large", "MAX", {"threshold": 100})
REQUEST = {"endpoint": "GET /x", "request_id": "r1"}
STATUS = REQUEST | {
    "status": 418,
    "code": "TEAPOT",
    "violations": (VIOLATION,),
    "retry_after": 3.5,
    "empty": True,
}
JOB = {"job_id": "j1", "request_id": "r1"}
OWN = {
    LoadError: {"failures": {"2024-01-01 device_type=ALL": "no"}},
    DaysFailedError: JOB | {"days": (date(2024, 1, 3),), "untried": (date(2024, 1, 1),)},
    IncompleteListingError: JOB | {"received": 3, "total": 4},
}


def attributes_of(kind):
    if kind in OWN:
        return OWN[kind]
    families = {
        errors.StatusError: STATUS,
        errors.RequestError: REQUEST,
        errors.ListingError: JOB,
    }
    return next((own for family, own in families.items() if issubclass(kind, family)), {})


def documented_tree():
    """Child -> parent, from the tree in the module's docstring."""
    parents, path = {}, {}
    for line in inspect.getdoc(errors).splitlines():
        found = re.match(r"^(?P<lead>[ │├└─]*)(?P<name>[A-Z]\w+Error)\b", line)
        if found:
            depth = len(found["lead"])
            path = {at: name for at, name in path.items() if at < depth} | {depth: found["name"]}
            above = [at for at in path if at < depth]
            parents[found["name"]] = path[max(above)] if above else None
    return parents


def test_the_module_docstring_shows_the_tree():
    assert documented_tree() == {
        kind.__name__: None if kind is WixError else kind.__bases__[0].__name__ for kind in CLASSES
    }


def test_every_error_has_a_docstring():
    assert [kind for kind in CLASSES if not inspect.getdoc(kind)] == []


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_keeps_its_class_message_and_attributes_when_pickled(kind, pickler):
    """Prefect passes errors between processes."""
    error = kind("a message", **attributes_of(kind))
    error.add_note("a note")
    copy = pickle.loads(pickler.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.args) == ("a message", ("a message",))
    assert vars(copy) == vars(error)
    for name, value in attributes_of(kind).items():
        assert getattr(copy, name) == value


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_a_wix_error(kind):
    with pytest.raises(WixError, match="a message"):
        raise kind("a message")


def test_a_job_timeout_is_a_timeout_error():
    """Prefect gives a run that raises it the state TimedOut."""
    assert issubclass(JobTimeoutError, TimeoutError)


def test_a_missing_package_is_an_import_error():
    assert issubclass(MissingExtraError, ImportError)


@pytest.mark.parametrize(
    ("error", "safe", "effect", "retryable"),
    [
        (RequestNotSentError(""), True, False, True),
        (ResponseLostError(""), False, True, True),
        (InvalidResponseError(""), False, True, True),
        (RateLimitError("", status=429), True, False, True),
        (ServerError("", status=503), True, False, True),
        (ServerError("", status=500), False, True, True),
        (ServerError("", status=502), False, True, True),
        (ServerError("", status=504), False, True, False),
        (PermissionDeniedError("", status=403, empty=True), False, False, True),
        (PermissionDeniedError("", status=403), False, False, False),
        (NotFoundError("", status=404), False, False, False),
        (ConflictError("", status=409), False, False, False),
        (StatusError("", status=302), False, False, False),
    ],
)
def test_a_request_error_says_whether_it_can_be_resent_or_retried(error, safe, effect, retryable):
    assert (error.safe_to_resend, error.may_have_taken_effect, error.retryable) == (
        safe,
        effect,
        retryable,
    )


def test_a_job_error_is_not_a_request_error():
    """A job with the status ERROR must not be handled as a lost connection."""
    assert not issubclass(JobFailedError, errors.RequestError)

"""The models of the Sessions API: query, job, page and mark outcome; and the sites of an account.

All are flat frozen pydantic models. Requests are sent by `prefect_wix.client.client`, and parsed by
`prefect_wix.client.responses`.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import date, datetime
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError, ValidationError

PAGE_LIMIT = 1000
"""The assumed maximum page size in session IDs; clients lower it when Wix rejects it."""

_NOT_IANA = re.compile("localtime|posixrules|Factory|(posix|right)/.*")
"""Files in a machine's zone database that Wix cannot know."""
SITE_ID = "^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
"""The pattern of a site ID. Wix's are GUIDs. A site's asset on the Prefect server has its ID as a
part of its key, and Prefect refuses most other characters there."""


class Period(StrEnum):
    """The 18 predefined time periods that Wix documents. Weeks begin on Monday."""

    TODAY = "TODAY"
    YESTERDAY = "YESTERDAY"
    LAST_7_DAYS = "LAST_7_DAYS"
    LAST_14_DAYS = "LAST_14_DAYS"
    LAST_28_DAYS = "LAST_28_DAYS"
    LAST_30_DAYS = "LAST_30_DAYS"
    LAST_90_DAYS = "LAST_90_DAYS"
    LAST_180_DAYS = "LAST_180_DAYS"
    LAST_365_DAYS = "LAST_365_DAYS"
    THIS_WEEK = "THIS_WEEK"
    THIS_MONTH = "THIS_MONTH"
    THIS_QUARTER = "THIS_QUARTER"
    THIS_YEAR = "THIS_YEAR"
    LAST_WEEK = "LAST_WEEK"
    LAST_MONTH = "LAST_MONTH"
    LAST_QUARTER = "LAST_QUARTER"
    LAST_YEAR = "LAST_YEAR"
    LAST_12_MONTHS = "LAST_12_MONTHS"


class DeviceType(StrEnum):
    """The device types that Wix documents; ALL includes every device."""

    DESKTOP = "DESKTOP"
    MOBILE = "MOBILE"
    TABLET = "TABLET"
    ALL = "ALL"


class FunnelStep(StrEnum):
    """The steps of the conversion funnel that Wix documents, from the first to the last."""

    SITE_SESSIONS = "SITE_SESSIONS"
    VIEWED_PRODUCT = "VIEWED_PRODUCT"
    ADDED_TO_CART = "ADDED_TO_CART"
    REACHED_CHECKOUT = "REACHED_CHECKOUT"
    SESSIONS_CONVERTED = "SESSIONS_CONVERTED"


class JobStatus(StrEnum):
    """The status of a job. An undocumented status becomes UNKNOWN."""

    UNKNOWN = "UNKNOWN_JOB_STATUS"
    IN_PROGRESS = "IN_PROGRESS"
    FINISHED = "FINISHED"
    ERROR = "ERROR"

    @classmethod
    def _missing_(cls, value: object) -> JobStatus:  # noqa: ARG003
        return cls.UNKNOWN


def check_timezone(zone: str) -> str:
    """The time zone, checked as an IANA name of at most 100 characters that this machine knows.

    Raises:
        PydanticCustomError: it is not. Pydantic shows the message of this ``ValueError`` unchanged.
    """
    if len(zone) > 100:  # noqa: PLR2004
        raise _invalid(
            f"timezone has {len(zone)} characters; Wix takes an IANA name of at most 100."
        )
    with suppress(ZoneInfoNotFoundError, ValueError, OSError):
        if not _NOT_IANA.fullmatch(zone):
            ZoneInfo(zone)
            return zone
    names = {name.lower(): name for name in available_timezones() if not _NOT_IANA.fullmatch(name)}
    if not names:
        raise _invalid("This machine has no time zone database. Install it: pip install tzdata")
    nearest = get_close_matches(zone.lower(), names, n=1)
    hint = f"Did you mean {names[nearest[0]]}?" if nearest else "Use a name such as Europe/Berlin."
    raise _invalid(f"timezone {zone!r} is not an IANA time zone. {hint}")


def form_pattern(pattern: str, what: str) -> Any:
    """The pattern of a field in a form, whose error is words: ``'a date such as …' was expected``.

    The form and the Prefect server would show a regular expression as it is.

    Args:
        pattern: the regular expression of valid texts.
        what: the valid texts in words, with an example.
    """
    # With the type, the words precede the error of an alternative, such as null.
    words: Any = {"type": "string", "const": what}
    return Field(json_schema_extra={"if": {"pattern": pattern}, "else": words})


_DATE = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"


def _check_day(value: object) -> object:
    if value is not None and not re.fullmatch(_DATE, str(value)):
        raise _invalid("Give a date without a time, as in 2024-01-31; a number is not a date.")
    return value


LocalDay = Annotated[
    date | None, BeforeValidator(_check_day), form_pattern(_DATE, "a date such as 2024-01-31")
]
"""A date or None. Pydantic would also take a number, as seconds since 1970."""


def _invalid(message: str) -> PydanticCustomError:
    # Pydantic shows the message of a custom error without a prefix. The message is passed as a
    # value, since braces in a template are placeholders.
    return PydanticCustomError("sessions_query", "{message}", {"message": message})


def _check_site(text: str) -> str:
    if not re.fullmatch(SITE_ID, text.strip()):
        raise _invalid(
            "The site ID is empty or has other characters than up to 200 letters, digits, '.', "
            "'_' and '-'. Copy it from Wix again."
        )
    return text.strip()


SiteId = Annotated[
    str, AfterValidator(_check_site), form_pattern(SITE_ID, "a site ID, copied from Wix")
]
"""The ID of a site or app instance, as a person gives it."""


def _check_pages(pages: tuple[str, ...]) -> tuple[str, ...]:
    if not pages:
        raise _invalid(
            "page_interactions is empty. Give at least one page, for example "
            '["/{Homepage}", "*", "__DROP__"], or leave it out.'
        )
    # Segment keys and run forms write any page as *; Wix's own name of it is the empty text.
    return tuple("" if page == "*" else page for page in pages)


_WIRE_PATHS = {
    "start_date": "customTimePeriod.startDate",
    "end_date": "customTimePeriod.endDate",
    "period": "predefinedTimePeriod.",
    "device_type": "deviceType.type",
    "funnel_include": "conversionFunnel.include",
    "funnel_exclude": "conversionFunnel.exclude",
    "page_interactions": "navigationFlow.pageInteractions",
    "timezone": "timezone.",
}
"""The fields' paths in Wix's JSON body. A dot at the end differs from every name in a body."""


class SessionsQuery(BaseModel):
    """The input of one job: a time period, a session filter and a time zone.

    The period is either ``start_date`` and ``end_date`` (calendar dates in ``timezone``; the
    end date is *not* included) or a predefined ``period``. The filter is one of ``device_type``,
    ``funnel_include`` and/or ``funnel_exclude``, or ``page_interactions``.

    Source: Wix, "List Sessions Async".
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra=lambda schema: schema.update(allOf=_RULES),
    )

    start_date: LocalDay = Field(
        None, title="Start date", description="First day, e.g. 2024-01-01. Requires an end date."
    )
    end_date: LocalDay = Field(
        None,
        title="End date (not included)",
        description="The day after the last day: 2024-01-01 to 2024-01-03 is two days.",
    )
    period: Period | None = Field(
        None, title="Predefined period", description="A predefined period, instead of two dates."
    )
    device_type: DeviceType | None = Field(
        None,
        title="Device type",
        description="Filter: sessions on this device type. ALL includes every session.",
    )
    funnel_include: FunnelStep | None = Field(
        None,
        title="Funnel: reached",
        description="Filter: sessions that reached this step of the conversion funnel.",
    )
    funnel_exclude: FunnelStep | None = Field(
        None,
        title="Funnel: did not reach",
        description="Filter: sessions that did not reach this step; also beside a reached step.",
    )
    page_interactions: Annotated[tuple[str, ...], AfterValidator(_check_pages)] | None = Field(
        None,
        title="Page interactions",
        json_schema_extra={"minItems": 1},
        description="Pages: `/{Homepage}` is the home page, `*` any page, `__DROP__` the exit.",
    )
    timezone: Annotated[str, AfterValidator(check_timezone)] | None = Field(
        None,
        title="Time zone",
        description="IANA time zone of the dates, e.g. Asia/Jerusalem. Default: the site's.",
    )

    @model_validator(mode="after")
    def _check_period(self) -> Self:
        dates = (self.start_date, self.end_date)
        if self.period is not None and dates != (None, None):
            raise _invalid("Give either start_date and end_date, or period, not both.")
        if self.period is None and dates == (None, None):
            raise _invalid("No time period: give start_date and end_date, or period.")
        if self.period is None and (self.start_date is None or self.end_date is None):
            raise _invalid("start_date and end_date go together: give both.")
        if self.start_date and self.end_date and self.end_date <= self.start_date:
            raise _invalid(
                f"end_date {self.end_date} must come after start_date {self.start_date}. "
                "The end date is not included, so one day is 2024-01-01 to 2024-01-02."
            )
        return self

    @model_validator(mode="after")
    def _check_filter(self) -> Self:
        filters = {
            "device_type": self.device_type,
            "funnel_include/funnel_exclude": self.funnel_include or self.funnel_exclude,
            "page_interactions": self.page_interactions,
        }
        given = [name for name, value in filters.items() if value]
        if not given:
            raise _invalid(
                "No session filter: give device_type (ALL for every session), funnel_include "
                "and/or funnel_exclude, or page_interactions."
            )
        if len(given) > 1:
            raise _invalid(f"One session filter a query, but {' and '.join(given)} are given.")
        return self

    def to_wire(self) -> dict[str, Any]:
        """The documented JSON body of "List Sessions Async" for this query."""
        body: dict[str, Any] = {}
        for name, value in self.model_dump(mode="json", exclude_none=True).items():
            outer, _, inner = _WIRE_PATHS[name].partition(".")
            body[outer] = {**body.get(outer, {}), inner: value} if inner else value
        return body

    @classmethod
    def from_wire(cls, body: object) -> Self:
        """The query of a documented JSON body. A null is the same as a missing field.

        Raises:
            ValueError: the body is not as documented; the message names the field.
        """
        flat = {
            f"{outer}.{inner}": part
            for outer, value in (body if isinstance(body, dict) else {"body": body}).items()
            for inner, part in (value if isinstance(value, dict) and value else {"": value}).items()
        }
        names = {path: name for name, path in _WIRE_PATHS.items()}
        try:
            return cls(**{names.get(p, p): v for p, v in flat.items() if v is not None})
        except ValidationError as error:
            first = error.errors()[0]
            where = [_WIRE_PATHS.get(str(at), str(at)).strip(".") for at in first["loc"][:1]]
            reason = "unknown field or type" if first["type"] == "extra_forbidden" else first["msg"]
            what = ": ".join(["Not a query as Wix documents it", *where, reason])
            raise _invalid(what) from None

    def __str__(self) -> str:
        """The query as one line, for logs and messages."""
        when = self.period or f"{self.start_date} to {self.end_date}"
        return f"{when} ({self.timezone or 'site zone'}), {self._describe_filter()}"

    def _describe_filter(self) -> str:
        if self.device_type is not None:
            return f"device {self.device_type}"
        if self.page_interactions is not None:
            return "pages " + " > ".join(page or "*" for page in self.page_interactions)
        parts = (("reached", self.funnel_include), ("not reached", self.funnel_exclude))
        return ", ".join(f"{word} {step}" for word, step in parts if step)


def _alone(field: str, *others: str) -> dict[str, Any]:
    unset = {"type": "null"}
    words = {"const": f"nothing, since {field} is set; set that to None"}
    return {
        "if": {"properties": {field: unset}},
        "else": {"properties": {key: {"if": unset, "else": words} for key in others}},
    }


_DATES = ("start_date", "end_date")
_A_DATE = {"if": {"type": "null"}, "then": {"const": "a date such as 2024-01-31, or a period"}}
# The rules of a query as JSON schema, so that a run form rejects a query that breaks them.
_RULES: list[dict[str, Any]] = [
    _alone("device_type", "funnel_include", "funnel_exclude", "page_interactions"),
    _alone("period", *_DATES)
    | {"then": {"required": [*_DATES], "properties": dict.fromkeys(_DATES, _A_DATE)}},
]


class SessionsJob(BaseModel, frozen=True, extra="forbid"):
    """The serializable handle of a submitted query. It contains no secret."""

    job_id: str
    """Wix's ID of the job."""
    query: SessionsQuery
    """The query of the job."""
    site_id: str
    """The ID of the site or app instance."""
    submitted_at: datetime
    """The time of the submit, in UTC."""
    possible_orphans: int = 0
    """Submits whose response was lost; each may have created a job."""

    def __str__(self) -> str:
        return self.job_id


class JobPage(BaseModel, frozen=True):
    """A response of "Get List Sessions Job Result".

    The session IDs of a page are a result only when its status is FINISHED.
    """

    status: JobStatus
    status_text: str
    """The status in Wix's spelling, including undocumented ones."""
    total: int | None
    """The number of session IDs of the whole job; None where Wix reports none."""
    session_ids: tuple[str, ...]
    request_id: str | None = None
    reason: str = ""
    """Wix's text about a job without a result, where it sends one."""


class Site(BaseModel, frozen=True):
    """One site of an account."""

    id: str
    name: str = ""
    """The display name, or else the name in the address; empty where Wix reports none."""

    def __str__(self) -> str:
        return f"{self.name} ({self.id})" if self.name else self.id


class SitesPage(BaseModel, frozen=True):
    """A response of "Query Sites"."""

    sites: tuple[Site, ...]
    cursor: str | None
    """The cursor of the next page; None on the last page."""


class MarkAction(StrEnum):
    """The two marks of a session at Wix."""

    RECORDED = "recorded"
    """A recording of the session exists."""
    DELETED = "deleted"
    """The recording of the session was deleted."""


class MarkState(StrEnum):
    """The state of one mark request."""

    DONE = "done"
    """Wix confirmed the request."""
    REFUSED = "refused"
    """Wix rejected the request, which had no effect."""
    UNKNOWN = "unknown"
    """The response was lost or invalid, so that the request may have taken effect."""
    NOT_SENT = "not_sent"
    """The request did not reach Wix, or an earlier failure affects all requests of the site."""


class MarkOutcome(BaseModel, frozen=True):
    """The outcome of one mark request, with its session IDs."""

    session_ids: tuple[str, ...]
    state: MarkState
    reason: str | None = None
    """The error message; for a repeated mark that is DONE, Wix's message; otherwise None."""
    request_id: str | None = None

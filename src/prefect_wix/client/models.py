"""The nouns of the Sessions API: the query, the job, the page, the outcome of a mark; the site.

Flat frozen pydantic models, printable and JSON both ways. Nothing here talks to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

__all__ = [
    "PAGE_LIMIT",
    "DeviceType",
    "FunnelStep",
    "JobPage",
    "JobStatus",
    "MarkAction",
    "MarkOutcome",
    "MarkState",
    "Period",
    "SessionsJob",
    "SessionsQuery",
    "Site",
    "SitesPage",
]

TIMEZONE_MAX_LENGTH = 100
"""Wix's documented limit for ``timezone``."""
PAGE_LIMIT = 1000
"""The most ids a page of a job's result may be asked for, as far as is known."""


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
    """The devices that Wix documents; ALL is every device."""

    DESKTOP = "DESKTOP"
    MOBILE = "MOBILE"
    TABLET = "TABLET"
    ALL = "ALL"


class FunnelStep(StrEnum):
    """The steps of the conversion funnel that Wix documents, from the widest to the deepest."""

    SITE_SESSIONS = "SITE_SESSIONS"
    VIEWED_PRODUCT = "VIEWED_PRODUCT"
    ADDED_TO_CART = "ADDED_TO_CART"
    REACHED_CHECKOUT = "REACHED_CHECKOUT"
    SESSIONS_CONVERTED = "SESSIONS_CONVERTED"


class JobStatus(StrEnum):
    """The status of a job. A status that Wix does not document reads as UNKNOWN."""

    UNKNOWN = "UNKNOWN_JOB_STATUS"
    IN_PROGRESS = "IN_PROGRESS"
    FINISHED = "FINISHED"
    ERROR = "ERROR"

    @classmethod
    def _missing_(cls, value: object) -> JobStatus:  # noqa: ARG003
        return cls.UNKNOWN


class SessionsQuery(BaseModel):
    """What one job is asked: one time period, one session filter, one time zone.

    The period is either ``start_date`` and ``end_date`` (calendar dates in ``timezone``; the
    end date is *not* included) or one of Wix's predefined ``period`` names. The filter is one of
    ``device_type``, ``funnel_include`` and/or ``funnel_exclude``, or ``page_interactions``.
    Anything else is refused here, before a request is made.

    Source: Wix, "List Sessions Async".
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra=lambda schema: schema.update(_ONE_PERIOD),
    )

    start_date: date | None = Field(default=None, title="Start date")
    """First day that is asked for, e.g. 2024-01-01. Goes with the end date."""
    end_date: date | None = Field(default=None, title="End date (not included)")
    """The day after the last one: 2024-01-01 to 2024-01-03 is two days."""
    period: Period | None = Field(default=None, title="Predefined period")
    """One of Wix's predefined periods, instead of two dates."""
    device_type: DeviceType | None = Field(default=None, title="Device type")
    """Filter: sessions on this kind of device; ALL is every session."""
    funnel_include: FunnelStep | None = Field(default=None, title="Funnel: reached")
    """Filter: sessions that reached this step of the conversion funnel."""
    funnel_exclude: FunnelStep | None = Field(default=None, title="Funnel: did not reach")
    """Filter: sessions that did not reach this step. May stand alone or with the one above."""
    page_interactions: tuple[str, ...] | None = Field(
        default=None, title="Page interactions", json_schema_extra={"minItems": 1}
    )
    """Filter: a page flow. `/{Homepage}` is the home page, empty any page, `__DROP__` exit."""
    timezone: str | None = Field(default=None, title="Time zone")
    """IANA name such as Asia/Jerusalem that the dates are read in; the site's own if left out."""

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, zone: str | None) -> str | None:
        if zone is not None:
            check_timezone(zone)
        return zone

    @field_validator("page_interactions")
    @classmethod
    def _interactions_are_there(cls, pages: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if pages is not None and not pages:
            raise _refusal(
                "page_interactions is empty. Give at least one page, for example "
                '["/{Homepage}", "", "__DROP__"], or leave it out.'
            )
        return pages

    @model_validator(mode="after")
    def _one_period_and_one_filter(self) -> Self:
        self._check_period()
        self._check_filter()
        return self

    def _check_period(self) -> None:
        dates = (self.start_date, self.end_date)
        if self.period is not None and dates != (None, None):
            raise _refusal("Give either start_date and end_date, or period, not both.")
        if self.period is None and dates == (None, None):
            raise _refusal("No time period: give start_date and end_date, or period.")
        if self.period is None and (self.start_date is None or self.end_date is None):
            raise _refusal("start_date and end_date go together: give both.")
        if self.start_date and self.end_date and self.end_date <= self.start_date:
            raise _refusal(
                f"end_date {self.end_date} must come after start_date {self.start_date}. "
                "The end date is not included, so one day is 2024-01-01 to 2024-01-02."
            )

    def _check_filter(self) -> None:
        given = [name for name, fields in _FILTERS.items() if any(map(self._has, fields))]
        if not given:
            raise _refusal(
                "No session filter: give device_type (ALL for every session), funnel_include "
                "and/or funnel_exclude, or page_interactions."
            )
        if len(given) > 1:
            raise _refusal(f"One session filter a query, but {' and '.join(given)} are given.")

    def _has(self, field: str) -> bool:
        return getattr(self, field) is not None

    def to_wire(self) -> dict[str, Any]:
        """The documented JSON body of "List Sessions Async" for this query."""
        return {**self._period_to_wire(), **self._filter_to_wire(), **self._zone_to_wire()}

    @property
    def filter_kind(self) -> str:
        """What is filtered by, as Wix calls it, such as ``deviceType``."""
        return next(iter(self._filter_to_wire()))

    def _period_to_wire(self) -> dict[str, Any]:
        if self.period is not None:
            return {"predefinedTimePeriod": self.period.value}
        dates = {"startDate": str(self.start_date), "endDate": str(self.end_date)}
        return {"customTimePeriod": dates}

    def _filter_to_wire(self) -> dict[str, Any]:
        if self.device_type is not None:
            return {"deviceType": {"type": self.device_type.value}}
        if self.page_interactions is not None:
            return {"navigationFlow": {"pageInteractions": list(self.page_interactions)}}
        steps = {"include": self.funnel_include, "exclude": self.funnel_exclude}
        return {"conversionFunnel": {way: step.value for way, step in steps.items() if step}}

    def _zone_to_wire(self) -> dict[str, Any]:
        return {} if self.timezone is None else {"timezone": self.timezone}

    def __str__(self) -> str:
        """The query in one short line, for logs and messages."""
        when = self.period or f"{self.start_date} to {self.end_date}"
        return f"{when} ({self.timezone or 'site zone'}), {self._describe_filter()}"

    def _describe_filter(self) -> str:
        if self.device_type is not None:
            return f"device {self.device_type}"
        if self.page_interactions is not None:
            return "pages " + " > ".join(page or "*" for page in self.page_interactions)
        parts = (("reached", self.funnel_include), ("not reached", self.funnel_exclude))
        return ", ".join(f"{word} {step}" for word, step in parts if step)


# What a run form can be told of the rule, so that no run is made without a period.
_ONE_PERIOD: dict[str, Any] = {
    "if": {"properties": {"period": {"type": "null"}}},
    "then": {
        "required": ["start_date", "end_date"],
        "properties": {"start_date": {"type": "string"}, "end_date": {"type": "string"}},
    },
    "else": {"properties": {"start_date": {"type": "null"}, "end_date": {"type": "null"}}},
}

_FILTERS: Mapping[str, tuple[str, ...]] = {
    "device_type": ("device_type",),
    "funnel_include/funnel_exclude": ("funnel_include", "funnel_exclude"),
    "page_interactions": ("page_interactions",),
}


def check_timezone(zone: str) -> None:
    """Refuse what is not an IANA time zone of at most 100 characters.

    Raises:
        PydanticCustomError: a ``ValueError`` that pydantic shows as it is.
    """
    if len(zone) > TIMEZONE_MAX_LENGTH:
        raise _refusal(
            f"timezone has {len(zone)} characters; Wix takes an IANA name of at most 100."
        )
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _refusal(
            f"timezone {zone!r} is not an IANA time zone. Use a name such as Europe/Berlin."
        ) from None


def _refusal(sentence: str) -> PydanticCustomError:
    # A custom error keeps pydantic from wrapping the sentence in its own words; the sentence
    # goes in as a value, since braces in a template are placeholders.
    return PydanticCustomError("sessions_query", "{sentence}", {"sentence": sentence})


class SessionsJob(BaseModel):
    """The handle of a submitted query: small, printable, safe to log, persist and hand on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: str = Field(description="Wix's id of the job.")
    query: SessionsQuery = Field(description="What the job was asked.")
    site_id: str = Field(description="The site (or app instance) that was asked.")
    submitted_at: datetime = Field(description="When it was submitted, in UTC.")
    possible_orphans: int = Field(
        default=0, description="Earlier submits of it whose reply was lost: each may run, unused."
    )

    def __str__(self) -> str:
        return self.job_id


class JobPage(BaseModel):
    """One answer of "Get List Sessions Job Result".

    Only a FINISHED page counts as a result. ``total`` is None where Wix named none.
    """

    model_config = ConfigDict(frozen=True)

    status: JobStatus
    status_text: str
    """The status as Wix spelled it, which may be one that it does not document."""
    total: int | None
    session_ids: tuple[str, ...]
    request_id: str | None = None


class Site(BaseModel):
    """One site of an account."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str = ""
    """As its owner calls it, for people; empty where it is not known."""

    def __str__(self) -> str:
        return f"{self.name} ({self.id})" if self.name else self.id


class SitesPage(BaseModel):
    """One answer of "Query Sites"."""

    model_config = ConfigDict(frozen=True)

    sites: tuple[Site, ...]
    cursor: str | None
    """Where the next page begins; None after the last one."""


class MarkAction(StrEnum):
    """What Wix is told of a session."""

    RECORDED = "recorded"
    """A recording of it exists."""
    DELETED = "deleted"
    """Its recording is gone."""


class MarkState(StrEnum):
    """What became of one mark call."""

    DONE = "done"
    """Wix confirmed it."""
    REFUSED = "refused"
    """Wix refused it, or it never arrived: it had no effect."""
    UNKNOWN = "unknown"
    """It was sent and the reply was lost: it may have taken effect."""
    NOT_SENT = "not_sent"
    """It was not tried, since the call before it showed that no call can succeed."""


class MarkOutcome(BaseModel):
    """What became of one mark call and the ids in it."""

    model_config = ConfigDict(frozen=True)

    session_ids: tuple[str, ...]
    state: MarkState
    reason: str | None = None
    """Why it is not done, in words; or what Wix said when it was done already."""
    request_id: str | None = None

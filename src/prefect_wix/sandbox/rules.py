"""Undocumented behaviour of Wix: one switch for each detail that a client must not depend on.

Documented behaviour has no switch; `requests` and `service` enforce it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

from pydantic import ConfigDict, PositiveFloat, PositiveInt, TypeAdapter, ValidationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the sandbox does where the documentation says nothing."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    last_n_days_includes_today: bool = True
    """Whether LAST_7_DAYS and similar periods end with today (True) or with yesterday."""
    midnight: Literal["start", "both"] = "start"
    """Whether a session that crosses midnight is listed on its first day or on both days."""
    page_cap: PositiveInt = 1000
    """The largest accepted `limit`."""
    unknown_job_status: int = 404
    """The HTTP status for an unknown job ID. 200 returns the job status UNKNOWN_JOB_STATUS."""
    job_lifetime_seconds: PositiveFloat | None = None
    """How long a job is known after its submit. None means forever."""
    sort: Literal["random", "id", "arrival"] = "random"
    """The order of a job's IDs, equal on all its pages. `id` is slow for millions of sessions."""
    recorded_only: bool = False
    """Whether to list only sessions with a recording: marked as recorded, not as deleted."""
    missing_authorization_is_forbidden: bool = False
    """Whether a missing Authorization header is a 403, as a user measured. Wix documents 401."""
    accepts_unset_enums: bool = False
    """Whether NOT_SELECTED_FUNNEL_STEP and NOT_SELECTED_DEVICE_TYPE count as absent, like null."""
    site_timezone_known: bool = True
    """Whether Site Properties returns the site's time zone."""
    accepts_unknown_marks: bool = True
    """Whether marking an unknown session succeeds. False returns 404."""
    accepts_repeated_marks: bool = True
    """Whether marking a session again succeeds. False returns 409."""
    counts_match: bool = True
    """Whether TOTAL_SESSIONS equals the number of listed sessions. False adds about 5 %."""
    token_seconds: PositiveInt = 14_400
    """The lifetime of an access token. Wix documents four hours; shorten it to test expiry."""

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Rules:
        """Return the rules with the settings `name=value`; the others have their defaults."""
        settings = dict(text.partition("=")[::2] for text in texts)
        try:
            return TypeAdapter(cls).validate_python(settings)
        except ValidationError as error:
            wrong, text = error.errors()[0]["loc"][0], error.errors()[0]["msg"]
            rules = ", ".join(f"{each.name}={each.default}" for each in fields(cls))
            raise ValueError(f"Rule {wrong!r}: {text}. All rules: {rules}.") from None

"""What Wix does not document: one switch for each thing that a client must not depend on.

What Wix does document is no switch; it is enforced in `requests` and `service`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The sandbox's choice wherever the documentation is silent."""

    last_n_days_includes_today: bool = True
    """Whether LAST_7_DAYS and its like end with today or with yesterday."""
    midnight: Literal["start", "both"] = "start"
    """A session that crosses midnight is listed on the day it arrives, or on both days."""
    page_cap: int = 1000
    """The largest `limit` that is accepted."""
    unknown_job_status: int = 404
    """The HTTP status for a job id nobody knows; 200 answers with UNKNOWN_JOB_STATUS."""
    job_lifetime_seconds: float | None = None
    """How long after its submit a job is known. None: for ever."""
    sort: Literal["random", "id", "arrival"] = "random"
    """The order of a job's ids. It never changes between pages. `id` is slow for millions."""
    recorded_only: bool = False
    """List only sessions that were marked as recorded and whose recording was not deleted."""
    site_timezone_known: bool = True
    """Whether Site Properties tells the site's time zone."""
    accepts_unknown_marks: bool = True
    """Whether marking a session that never happened succeeds, or answers 404."""
    accepts_repeated_marks: bool = True
    """Whether marking the same session again succeeds, or answers 409."""
    counts_match: bool = True
    """Whether TOTAL_SESSIONS agrees with the listing, or is about 5 % higher."""
    token_seconds: int = 14_400
    """How long a minted token is accepted. Wix documents four hours; shorten it to see it end."""

"""A window that can't be listed as a whole is listed day by day.

The union of the days is the result, once every day is listed. A day that fails by itself is named,
and then there is no result. What one listing is, and when it fails, is in
`prefect_wix.jobs.listing`.
Partitions are of one day each, and are loaded by `prefect_wix.load.loader`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from typing import NoReturn

from prefect_wix.client.client import Log, WixClient
from prefect_wix.client.models import SessionsJob, SessionsQuery
from prefect_wix.errors import (
    DaysFailedError,
    IncompleteListingError,
    JobFailedError,
    JobTimeoutError,
    ListingError,
)
from prefect_wix.jobs.listing import Listing, ListingSummary
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.planning.windows import ONE_DAY
from prefect_wix.spool.id_spool import Spool
from prefect_wix.spool.shield import shield_in_thread

__all__ = ["complete_listing"]

HOPELESS_DAYS = 5
"""After this many days that failed, and none that was listed, the days are not the reason."""
_HOPELESS = "nothing at all could be listed: try later"
_NO_TIME = "the time was up: allow more timeout_seconds"
_FEWER_DAYS_MAY_DO = (JobFailedError, JobTimeoutError, IncompleteListingError)
_LOG = logging.getLogger(__name__)

_Outcome = ListingSummary | ListingError


@asynccontextmanager
async def complete_listing(
    client: WixClient, job: SessionsJob, *, poll_policy: PollPolicy = PollPolicy(), log: Log = _LOG
) -> AsyncIterator[tuple[ListingSummary, Spool]]:
    """The complete result of a job's query, listed day by day where the whole fails.

    ::

        async with drained(client, job) as (summary, spool):
            ...

    Only a query with two dates is split; what a predefined period means is for Wix to say. There is
    one job at a time, for one day, the newest day first. All days together may take as long as the
    whole, and each of them a quarter of that; the last one begins while a quarter is left. So all
    ends after twice the timeout, beside waits for the site's budget, and up to two days that never
    end leave time for the others.

    Args:
        client: sends the requests.
        job: runs for the query already. One that fails is submitted once more before it is split;
            so is that of a day, before the day counts as failed.
        patience: how to wait for the whole.
        log: gets a warning for the whole, and for each day, that fails.

    Raises:
        DaysFailedError: days failed by themselves or were not tried; it names them.
        ListingError: a query of one day, or of a predefined period, failed; or the whole was
            finished and could not be read in time; see `Listing`.
        RequestError: a request failed in a way that fewer days do not mend.
    """
    async with Listing(client, job.query, job=job, poll_policy=poll_policy, log=log) as whole:
        outcome = await _outcome(whole)
        if isinstance(outcome, ListingSummary):
            yield outcome, whole.spool
            return
    days = _days(job.query)
    # Where the job has finished, its days have as many pages, and less time for them.
    was_read_too_slowly = isinstance(outcome, JobTimeoutError) and whole.has_finished_job
    if len(days) <= 1 or was_read_too_slowly:
        raise outcome
    log.warning("%s Listing its %d days one by one.", outcome, len(days))
    with Spool() as union:
        outcomes = await _list_days(client, job.query, poll_policy, log, union)
        listed = [one for one in outcomes.values() if isinstance(one, ListingSummary)]
        if len(listed) < len(days):
            _raise_days_failed(job.query, outcomes, outcome)
        yield _summarize(whole, whole.job or job, listed, union), union


async def _outcome(listing: Listing) -> _Outcome:
    """The summary of a listing, or the failure that fewer days may mend."""
    try:
        return await listing.read_all()
    except _FEWER_DAYS_MAY_DO as error:
        return error


def _days(query: SessionsQuery) -> list[date]:
    """The days between two dates, oldest first; none where the period is one of Wix's own."""
    start, end = query.start_date, query.end_date
    if start is None or end is None:
        return []
    return [start + n * ONE_DAY for n in range((end - start).days)]


async def _list_days(
    client: WixClient, query: SessionsQuery, poll_policy: PollPolicy, log: Log, union: Spool
) -> dict[date, _Outcome]:
    """Add the ids of each day, the newest first, until the time is up or nothing can be listed."""
    patience_of_a_day = replace(poll_policy, timeout_seconds=poll_policy.timeout_seconds / 4)
    last_begin = client.clock.now() + poll_policy.timeout_seconds * 3 / 4
    outcomes: dict[date, _Outcome] = {}
    for day in reversed(_days(query)):
        if client.clock.now() > last_begin or _is_hopeless(outcomes):
            break
        one_day = query.model_copy(update={"start_date": day, "end_date": day + ONE_DAY})
        async with Listing(client, one_day, poll_policy=patience_of_a_day, log=log) as listing:
            outcomes[day] = await _outcome(listing)
            if listing.summary is None:
                log.warning("%s fails by itself: %s", day, outcomes[day])
            else:  # Only a complete listing belongs in the union.
                await shield_in_thread(partial(_copy, listing.spool, union))
    return outcomes


def _is_hopeless(outcomes: dict[date, _Outcome]) -> bool:
    failed = [isinstance(one, ListingError) for one in outcomes.values()]
    return len(failed) >= HOPELESS_DAYS and all(failed)


def _copy(spool: Spool, union: Spool) -> None:
    for batch in spool.batches():
        union.add(batch)


def _raise_days_failed(
    query: SessionsQuery, outcomes: dict[date, _Outcome], failure: ListingError
) -> NoReturn:
    failed = {day: one for day, one in outcomes.items() if isinstance(one, ListingError)}
    days = sorted(failed)
    untried = [day for day in _days(query) if day not in outcomes]
    first = failed[days[0]] if days else failure
    named = f"Days that fail by themselves: {', '.join(map(str, days))}. " if days else ""
    if untried:
        reason = _HOPELESS if _is_hopeless(outcomes) else _NO_TIME
        named += f"Days before {untried[-1] + ONE_DAY} were not tried, since {reason}. "
    raise DaysFailedError(
        f"{query} can't be listed, neither as a whole nor day by day, and nothing of it is used. "
        f"{named}List the other days, or let load_sessions load them; try these later. "
        f"The first reason: {first}",
        job_id=first.job_id,
        request_id=first.request_id,
        days=tuple(days),
        untried=tuple(untried),
    ) from first


def _summarize(
    whole: Listing, job: SessionsJob, days: list[ListingSummary], union: Spool
) -> ListingSummary:
    """The union of the days, with all that it and the whole cost."""
    return ListingSummary(
        job=job,
        sessions=len(union),
        duplicates=sum(day.sessions + day.duplicates for day in days) - len(union),
        passes=max(day.passes for day in days),
        requests=whole.requests + sum(day.requests + 1 for day in days),
        possible_orphans=whole.possible_orphans + sum(day.possible_orphans for day in days),
        resubmitted=whole.resubmitted or any(day.resubmitted for day in days),
        parts=len(days),
    )

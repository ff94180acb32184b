"""List a window day by day if its job fails.

The result is the union of all days. If a day fails as well, there is no result and the error names
the day. One listing is in `prefect_wix.jobs.listing`; partitions of one day are loaded by
`prefect_wix.load.loader`.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from typing import NoReturn

from prefect_wix import errors
from prefect_wix.client.client import Log, WixClient
from prefect_wix.client.models import SessionsJob, SessionsQuery
from prefect_wix.jobs.listing import Listing, ListingSummary
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.planning.windows import ONE_DAY
from prefect_wix.spool.id_spool import Spool
from prefect_wix.spool.shield import shield_in_thread

MAX_FAILED_DAYS = 5
"""Stop after this many failed days if none succeeded: then the days are not the cause."""
_ALL_FAILED = "all days failed so far: run again later"
_NO_TIME = "the timeout was reached: increase timeout_seconds"
_SPLITTABLE = (errors.JobFailedError, errors.JobTimeoutError, errors.IncompleteListingError)
_LOG = logging.getLogger(__name__)

_Outcome = ListingSummary | errors.ListingError


@asynccontextmanager
async def complete_listing(
    client: WixClient, job: SessionsJob, *, poll_policy: PollPolicy = PollPolicy(), log: Log = _LOG
) -> AsyncIterator[tuple[ListingSummary, Spool]]:
    """The complete result of a job's query, listed day by day if the whole window fails.

    ::

        async with complete_listing(client, job) as (summary, spool):
            ...

    Only a query with two dates is split, since Wix defines the days of a predefined period. The
    days run one after the other, the newest first. Each may take a quarter of the timeout, and no
    day starts after three quarters of it. The total is therefore at most twice the timeout, plus
    waits for the rate limit, and two jobs that never finish leave time for the other days.

    Args:
        client: sends the requests.
        job: the submitted job of the query. A failed job, of the window or of a day, is resubmitted
            once.
        poll_policy: the deadline of the whole window, and the waits between polls.
        log: gets a warning if the whole window fails, and for each failed day.

    Raises:
        DaysFailedError: days failed or were not tried; it names them.
        ListingError: a query of one day, or of a predefined period, failed; or the job of the whole
            window finished but was not read before the deadline; see `Listing`.
        RequestError: a request failed for a reason that does not depend on the window.
    """
    async with Listing(client, job.query, job=job, poll_policy=poll_policy, log=log) as whole:
        outcome = await _outcome(whole)
        if isinstance(outcome, ListingSummary):
            yield outcome, whole.spool
            return
    days = _days(job.query)
    # The days have as many pages as the finished job, and less time to read them.
    was_read_too_slowly = isinstance(outcome, errors.JobTimeoutError) and whole.finished is not None
    if len(days) <= 1 or was_read_too_slowly:
        raise outcome
    log.warning("%s Splitting the query into %d days.", outcome, len(days))
    with Spool() as union:
        outcomes = await _list_days(client, job.query, poll_policy, log, union)
        listed = [one for one in outcomes.values() if isinstance(one, ListingSummary)]
        if len(listed) < len(days):
            _raise_days_failed(job.query, outcomes, outcome)
        yield _summarize(whole, whole.job or job, listed, union), union


async def _outcome(listing: Listing) -> _Outcome:
    """The summary of a listing, or its error if a shorter window may succeed."""
    try:
        return await listing.read_all()
    except _SPLITTABLE as error:
        return error


def _days(query: SessionsQuery) -> list[date]:
    """The days of a window, oldest first; none for a predefined period."""
    start, end = query.start_date, query.end_date
    if start is None or end is None:
        return []
    return [start + n * ONE_DAY for n in range((end - start).days)]


async def _list_days(
    client: WixClient, query: SessionsQuery, poll_policy: PollPolicy, log: Log, union: Spool
) -> dict[date, _Outcome]:
    """Add the IDs of each day, the newest first, until the time is up or too many days failed."""
    day_policy = replace(poll_policy, timeout_seconds=poll_policy.timeout_seconds / 4)
    latest_start = client.clock.now() + poll_policy.timeout_seconds * 3 / 4
    outcomes: dict[date, _Outcome] = {}
    for day in reversed(_days(query)):
        if client.clock.now() > latest_start or _all_failed(outcomes):
            break
        one_day = query.model_copy(update={"start_date": day, "end_date": day + ONE_DAY})
        async with Listing(client, one_day, poll_policy=day_policy, log=log) as listing:
            outcomes[day] = await _outcome(listing)
            if listing.summary is None:
                log.warning("Day %s failed: %s", day, outcomes[day])
            else:  # only a complete listing belongs in the union
                await shield_in_thread(partial(_copy, listing.spool, union))
    return outcomes


def _all_failed(outcomes: dict[date, _Outcome]) -> bool:
    failed = [isinstance(one, errors.ListingError) for one in outcomes.values()]
    return len(failed) >= MAX_FAILED_DAYS and all(failed)


def _copy(spool: Spool, union: Spool) -> None:
    for batch in spool.batches():
        union.add(batch)


def _raise_days_failed(
    query: SessionsQuery, outcomes: dict[date, _Outcome], failure: errors.ListingError
) -> NoReturn:
    failed = {day: one for day, one in outcomes.items() if isinstance(one, errors.ListingError)}
    days = sorted(failed)
    untried = [day for day in _days(query) if day not in outcomes]
    first = failed[days[0]] if days else failure
    named = f"Failed days: {', '.join(map(str, days))}. " if days else ""
    if untried:
        reason = _ALL_FAILED if _all_failed(outcomes) else _NO_TIME
        named += f"Days before {untried[-1] + ONE_DAY} were not tried, since {reason}. "
    raise errors.DaysFailedError(
        f"{query} failed as a whole and day by day; none of its sessions were used. {named}"
        "List the other days, or load them with load_sessions, and retry these later. "
        f"First failure: {first}",
        job_id=first.job_id,
        request_id=first.request_id,
        days=tuple(days),
        untried=tuple(untried),
    ) from first


def _summarize(
    whole: Listing, job: SessionsJob, days: list[ListingSummary], union: Spool
) -> ListingSummary:
    """The summary of the union; its requests include those of the failed whole window."""
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

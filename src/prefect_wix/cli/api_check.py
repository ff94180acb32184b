"""Compare what Wix does not document with a real site: `prefect-wix check --api`.

The table has no ID, no secret and no number of sessions, so that its user can publish it. To add
an assumption: its line in `ASSUMED`, and an observation under the same name.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4
from zoneinfo import ZoneInfo

from prefect_wix import __version__
from prefect_wix.blocks.credentials import AnyWixCredentials
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import DeviceType, JobPage, JobStatus, Period, SessionsQuery
from prefect_wix.errors import StatusError
from prefect_wix.jobs.listing import submit_job
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.jobs.polling import JobReader

ASSUMED = {
    "time zone of the site": "known",
    "status without Authorization": "401",
    "status of an unknown job": "404",
    "unset enum value in a query": "refused",
    "largest limit of a page": "1000",
    "order of the IDs": "not by ID",
    "page that is read again": "the same",
    "second page": "only new IDs",
    "session over midnight": "on one day",
    "LAST_7_DAYS ends": "today",
    "share of Wix's own count": "100%",
    "session without a recording": "listed",
    "job after the check": "known",
    "mark of an unknown session": "accepted",
    "second mark of a session": "accepted",
    "rate limit": "429 after 200 requests",
    "Retry-After": "none",
}
"""What is assumed, by name. The package is correct without it. No check marks a session."""
MINUTE = 60.0
"""The period of the rate limit, in seconds."""
JOB_SECONDS = 60.0
"""How long to wait for the jobs, in seconds."""
FEW = 20
"""With fewer sessions, equal numbers and orders may be a coincidence."""
MOST_REQUESTS = 500
"""When to stop provoking a 429, if Wix accepts every request."""
_PERIODS = {"week": (7, 0), "yesterday": (1, 0), "day before": (2, 1), "LAST_7_DAYS": None}
_LIST = "POST /analytics/v1/sessions/list/async"
_RESULT = "GET /analytics/v1/sessions/list/result"
_NO_JOB = {"params": {"jobId": str(uuid4()), "limit": 1, "offset": 0}}


def show_comparison(seen: Mapping[str, str], output: Path | None) -> None:
    """Print what is assumed and what is seen.

    Args:
        seen: the observations by name.
        output: a file for the table as JSON; None for none.
    """
    rows = [(name, assumed, seen.get(name, "not observed")) for name, assumed in ASSUMED.items()]
    print(f"  {'':<28} {'assumed':<23} seen")  # noqa: T201
    for name, assumed, one in rows:
        mark = " " if one in {assumed, "not observed"} else "!"
        print(f"{mark} {name:<28} {assumed:<23} {one}")  # noqa: T201
    print("\nPlease report what differs (!). The table has no ID and no secret.")  # noqa: T201
    if output:
        table = {name: {"assumed": assumed, "seen": one} for name, assumed, one in rows}
        output.write_text(json.dumps({"version": __version__, "assumptions": table}, indent=2))


async def observe(
    credentials: AnyWixCredentials, seen: dict[str, str], *, provoke_429: bool = False
) -> None:
    """Send about 20 requests, five of which start jobs, and add what is seen by name.

    Args:
        credentials: the credentials block of the site.
        seen: receives the observations, also those before an error.
        provoke_429: whether to send requests at the end until Wix refuses one.

    Raises:
        WixError: Wix refused a request that every load sends, or a job does not finish.
    """
    async with credentials.get_client() as client:
        zone = await client.get_site_timezone()
        seen["time zone of the site"] = "known" if zone else "unknown"
        today = datetime.now(ZoneInfo(zone or "UTC")).date()
        queries = {name: _query(ages, today, zone) for name, ages in _PERIODS.items()}
        jobs = {name: await submit_job(client, one) for name, one in queries.items()}
        await _observe_refusals(client, seen)
        policy = PollPolicy(timeout_seconds=JOB_SECONDS)
        deadline = client.clock.now() + JOB_SECONDS
        readers = {
            name: JobReader(client, job, policy, deadline, client.log) for name, job in jobs.items()
        }
        pages = {name: await reader.page(0) for name, reader in readers.items()}
        seen["largest limit of a page"] = str(client.page_limit)
        _compare_pages(pages, seen)
        # The counts need another permission.
        with suppress(StatusError):
            counts = await client.get_total_sessions(today - timedelta(7), today, zone or "UTC")
            _compare_counts(pages["week"].total or 0, sum(counts.values()), seen)
        await _read_again(client, jobs["week"].job_id, pages["week"], seen)
        if provoke_429:
            await _provoke_429(client, seen)


def _query(ages: tuple[int, int] | None, today: date, zone: str | None) -> SessionsQuery:
    """All sessions from one age in days to another; of LAST_7_DAYS without ages."""
    if ages is None:
        return SessionsQuery(period=Period.LAST_7_DAYS, device_type=DeviceType.ALL, timezone=zone)
    start, end = (today - timedelta(age) for age in ages)
    return SessionsQuery(start_date=start, end_date=end, device_type=DeviceType.ALL, timezone=zone)


async def _observe_refusals(client: WixClient, seen: dict[str, str]) -> None:
    """Send requests that the client never sends."""
    headers = {"wix-site-id": client.site_id}
    anonymous = await client.send_unchecked(_RESULT, **_NO_JOB, headers=headers, auth=None)
    seen["status without Authorization"] = str(anonymous.status_code)
    unknown = await client.send_unchecked(_RESULT, **_NO_JOB)
    seen["status of an unknown job"] = str(unknown.status_code)
    funnel = {"include": "VIEWED_PRODUCT", "exclude": "NOT_SELECTED_FUNNEL_STEP"}
    body = {"predefinedTimePeriod": "YESTERDAY", "conversionFunnel": funnel}
    unset = await client.send_unchecked(_LIST, json=body)
    seen["unset enum value in a query"] = "accepted" if unset.is_success else "refused"


def _compare_pages(pages: Mapping[str, JobPage], seen: dict[str, str]) -> None:
    week, ids = pages["week"], pages["week"].session_ids
    if len(ids) >= FEW:
        seen["order of the IDs"] = "by ID" if list(ids) == sorted(ids) else "not by ID"
        is_equal = pages["LAST_7_DAYS"].total == week.total
        seen["LAST_7_DAYS ends"] = "yesterday" if is_equal else "today"
    days = [pages["yesterday"], pages["day before"]]
    if not {*days[0].session_ids}.isdisjoint(days[1].session_ids):
        seen["session over midnight"] = "on both days"
    elif all(FEW <= len(day.session_ids) == day.total for day in days):
        seen["session over midnight"] = "on one day"


def _compare_counts(listed: int, counted: int, seen: dict[str, str]) -> None:
    if counted >= FEW:
        seen["share of Wix's own count"] = f"{listed / counted:.0%}"
        is_few = listed < counted / 2
        seen["session without a recording"] = "not listed" if is_few else "listed"


async def _read_again(client: WixClient, job: str, first: JobPage, seen: dict[str, str]) -> None:
    received = len(first.session_ids)
    read = partial(client.get_list_sessions_job_result, job, limit=max(received, 1))
    again = None
    with suppress(StatusError):
        again = await read()
    is_known = again is not None and again.status is JobStatus.FINISHED
    seen["job after the check"] = "known" if is_known else "unknown"
    if again is None or not is_known:
        return
    is_same = (again.total, again.session_ids) == (first.total, first.session_ids)
    seen["page that is read again"] = "the same" if is_same else "different"
    if received < (first.total or 0):
        second = await read(offset=received)
        is_new = {*second.session_ids}.isdisjoint(first.session_ids)
        seen["second page"] = "only new IDs" if is_new else "repeats IDs"


async def _provoke_429(client: WixClient, seen: dict[str, str]) -> None:
    """Use up the rate limit of the site, from a minute without requests on."""
    await asyncio.sleep(MINUTE)
    for sent in range(0, MOST_REQUESTS, 10):
        ten = await asyncio.gather(*(client.send_unchecked(_RESULT, **_NO_JOB) for _ in range(10)))
        if refused := [one for one in ten if one.status_code in {429, 403}]:
            accepted = sent + len(ten) - len(refused)
            seen["rate limit"] = f"{refused[0].status_code} after {accepted} requests"
            retry_after = refused[0].headers.get("retry-after", "none")
            seen["Retry-After"] = retry_after if retry_after.isalnum() else "a date"
            return
    seen["rate limit"] = f"none in {MOST_REQUESTS} requests"

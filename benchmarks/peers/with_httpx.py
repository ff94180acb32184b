"""A plain script with httpx, as a person writes it from the documentation.

It polls at given waits and uses the poll that finds a job finished as page one. It stores no IDs
and verifies only the total. `with_httpx_limited` adds a rate limiter.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from benchmarks.task import Task, measure_work, task_from_arguments

LIST = "/analytics/v1/sessions/list/async"
RESULT = "/analytics/v1/sessions/list/result"
PAGE = 1000


async def fetch_all(task: Task, transport: httpx.AsyncBaseTransport | None = None) -> int:
    """Fetch every day, one job per slot at once. Returns the number of IDs."""
    headers = {"Authorization": task.api_key, "wix-site-id": task.site_id}
    slots = asyncio.Semaphore(task.slots)
    async with httpx.AsyncClient(
        base_url=task.base_url, headers=headers, timeout=30, transport=transport
    ) as client:
        return sum(await asyncio.gather(*(_fetch(client, task, day, slots) for day in task.days)))


async def _fetch(
    client: httpx.AsyncClient, task: Task, day: tuple[str, str], slots: asyncio.Semaphore
) -> int:
    async with slots:
        job_id = await _submit(client, task, day)
        first = await _wait(client, task, job_id)
        pages = asyncio.Semaphore(task.pages_in_flight)

        async def page(offset: int) -> int:
            async with pages:
                return len((await _page(client, job_id, offset))["sessionIds"])

        rest = range(PAGE, first["total"], PAGE)
        got = len(first["sessionIds"]) + sum(await asyncio.gather(*map(page, rest)))
    if got != first["total"]:
        raise RuntimeError(f"Job {job_id} returned {got} of {first['total']} IDs.")
    return got


async def _submit(client: httpx.AsyncClient, task: Task, day: tuple[str, str]) -> str:
    period = {"startDate": day[0], "endDate": day[1]}
    query = {
        "customTimePeriod": period,
        "deviceType": {"type": "ALL"},
        "timezone": task.timezone,
    }
    response = await client.post(LIST, json=query)
    return str(response.raise_for_status().json()["jobId"])


async def _wait(client: httpx.AsyncClient, task: Task, job_id: str) -> dict[str, Any]:
    for wait in task.poll_waits():
        await asyncio.sleep(wait)
        result = await _page(client, job_id, 0)
        if result["jobStatus"] == "FINISHED":
            break
        if result["jobStatus"] == "ERROR":
            raise RuntimeError(f"Job {job_id} failed.")
    return result


async def _page(client: httpx.AsyncClient, job_id: str, offset: int) -> dict[str, Any]:
    params: dict[str, str | int] = {"jobId": job_id, "limit": PAGE, "offset": offset}
    response = await client.get(RESULT, params=params)
    return dict(response.raise_for_status().json()["result"])


if __name__ == "__main__":
    the_task = task_from_arguments()
    measure_work(lambda: asyncio.run(fetch_all(the_task)))

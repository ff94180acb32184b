"""dlt's REST client and paginator, with submit and polls written by hand.

dlt does not support asynchronous jobs; its guides poll at a fixed interval and then paginate.
``fetch`` only fetches; ``limited`` does so with pyrate-limiter, since dlt has no rate limiter.
``replace`` and ``merge`` load the same days into DuckDB twice.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dlt
from dlt.sources.helpers.rest_client import RESTClient
from dlt.sources.helpers.rest_client.paginators import OffsetPaginator
from pyrate_limiter import Duration, Limiter, Rate
from requests.adapters import HTTPAdapter

from benchmarks.task import Task, measure_work, task_from_arguments

LIST = "/analytics/v1/sessions/list/async"
RESULT = "/analytics/v1/sessions/list/result"
PAGE = 1000


class LimitedAdapter(HTTPAdapter):
    """Sends at most so many requests in 61 s; dlt's session repeats rejected ones (429)."""

    def __init__(self, requests_per_minute: int) -> None:
        super().__init__(pool_maxsize=50)  # as dlt's own
        rate = Rate(requests_per_minute, Duration.SECOND * 61)
        self._limiter = Limiter(rate, raise_when_fail=False)

    def send(self, *args: Any, **options: Any) -> Any:
        """See `HTTPAdapter.send`."""
        while not self._limiter.try_acquire("wix"):
            time.sleep(0.1)
        return super().send(*args, **options)


def fetch_all(task: Task, *, limited: bool = False) -> int:
    """Fetch every day, with one thread per slot. Returns the number of IDs."""
    client = _client(task)
    if limited:
        client.session.mount(task.base_url, LimitedAdapter(task.requests_per_minute))
    with ThreadPoolExecutor(task.slots) as threads:
        return sum(threads.map(lambda day: sum(map(len, _pages(client, task, day))), task.days))


def load_twice(task: Task, disposition: Any) -> int:
    """Load every day into DuckDB twice. Returns the number of rows that the second load wrote."""
    client = _client(task)

    def rows() -> Iterator[list[dict[str, str]]]:
        for day in task.days:
            for ids in _pages(client, task, day):
                yield [{"day": day[0], "id": one} for one in ids]

    sessions = dlt.resource(
        rows, name="sessions", write_disposition=disposition, primary_key=("day", "id")
    )
    pipeline = dlt.pipeline(
        "wix",
        destination=dlt.destinations.duckdb(task.warehouse.removeprefix("duckdb:///")),
        dataset_name="wix",
    )
    pipeline.run(sessions)
    pipeline.run(sessions)
    return int(pipeline.last_trace.last_normalize_info.row_counts["sessions"])


def _client(task: Task) -> RESTClient:
    return RESTClient(
        task.base_url,
        headers={"Authorization": task.api_key, "wix-site-id": task.site_id},
        paginator=OffsetPaginator(limit=PAGE, total_path="result.total"),
        data_selector="result.sessionIds",
    )


def _pages(client: RESTClient, task: Task, day: tuple[str, str]) -> Iterator[list[str]]:
    job_id = _submit(client, task, day)
    _wait(client, task, job_id)
    for page in client.paginate(RESULT, params={"jobId": job_id}):
        yield list(page)


def _submit(client: RESTClient, task: Task, day: tuple[str, str]) -> str:
    query = {
        "customTimePeriod": {"startDate": day[0], "endDate": day[1]},
        "deviceType": {"type": "ALL"},
        "timezone": task.timezone,
    }
    response = client.post(LIST, json=query)
    response.raise_for_status()
    return str(response.json()["jobId"])


def _wait(client: RESTClient, task: Task, job_id: str) -> None:
    params = {"jobId": job_id, "limit": 1, "offset": 0}
    for wait in task.poll_waits():
        time.sleep(wait)
        response = client.get(RESULT, params=params)
        response.raise_for_status()
        status = response.json()["result"]["jobStatus"]
        if status == "FINISHED":
            break
        if status == "ERROR":
            raise RuntimeError(f"Job {job_id} failed.")


if __name__ == "__main__":
    verb, the_task = sys.argv[1], task_from_arguments()
    measure_work(
        lambda: (
            fetch_all(the_task, limited=verb == "limited")
            if verb in {"fetch", "limited"}
            else load_twice(the_task, verb)
        )
    )

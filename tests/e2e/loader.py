"""One load as a process of its own, which may be told to die at a certain step.

Used by the tests that kill: ``python -m tests.e2e.loader '{"url": …}'``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from datetime import UTC, date, datetime, timedelta

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.load.loader import load_partitions
from prefect_wix.load.partition_load import LoadOptions
from prefect_wix.planning.plan import Refresh, RefreshPolicy, make_plan, partitions_of
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import Window
from prefect_wix.warehouse.factory import open_warehouse


class Reaper:
    """Kills this process at one step: before, during or after the n-th time it is taken."""

    def __init__(self, verb, moment, number, delay):
        self.verb, self.moment, self.number, self.delay = verb, moment, number, delay
        self.seen = 0

    def around(self, verb, call):
        """The call, with death where it is due."""

        async def mortal(*args, **kwargs):
            due = self.is_due(verb)
            if due and self.moment == "before":
                die()
            if due and self.moment == "during":
                threading.Timer(self.delay, die).start()
            value = await call(*args, **kwargs)
            if due and self.moment == "after":
                die()
            return value

        return mortal

    def is_due(self, verb):
        if verb != self.verb:
            return False
        self.seen += 1
        return self.seen == self.number


def die():
    os.kill(os.getpid(), signal.SIGKILL)


async def main(told):
    reaper = Reaper(**told.get("kill", {"verb": "", "moment": "", "number": 0, "delay": 0}))
    warehouse = open_warehouse(told["warehouse"], schema=told.get("schema"))
    await warehouse.prepare()
    for verb in ("claim", "save_record", "publish"):
        setattr(warehouse, verb, reaper.around(verb, getattr(warehouse, verb)))
    start, end = map(date.fromisoformat, told["days"])
    window = Window(start, end, "Asia/Jerusalem")
    segments = [Segment.parse(key) for key in told["segments"]]
    as_of = datetime.fromisoformat(told["as_of"])
    receipts = await warehouse.receipts(told["site_id"], window)
    plan = make_plan(
        partitions_of(told["site_id"], window, segments),
        receipts,
        RefreshPolicy(Refresh.ALL, timedelta(0), as_of, datetime.now(UTC)),
    )
    auth = ApiKeyAuth(told["api_key"], told["site_id"])
    async with WixClient(auth, base_url=told["base_url"], requests_per_minute=100_000) as client:
        client.page_limit = told.get("page_limit", 1000)
        submit, page = client.list_sessions_async, client.get_list_sessions_job_result
        client.list_sessions_async = reaper.around("submit", submit)
        client.get_list_sessions_job_result = reaper.around("page", page)
        return await load_partitions(
            client,
            warehouse,
            [*plan.to_load],
            LoadOptions(
                as_of=as_of,
                jobs_in_flight=told.get("jobs_in_flight", 4),
                poll_policy=PollPolicy(first_wait_seconds=0.02, longest_wait_seconds=0.2),
                run_id=told.get("run_id"),
            ),
            on_progress=nothing,
        )


async def nothing(outcome):
    """Nobody watches."""


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))

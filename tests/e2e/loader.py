"""One load in a process of its own that can kill itself at a given step.

`test_kill` runs it: ``python -m tests.e2e.loader '{"warehouse": …}'``.
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
    """Kill this process before, during or after the n-th call of one operation."""

    def __init__(self, operation, moment, number, delay):
        self.operation, self.moment, self.number, self.delay = operation, moment, number, delay
        self.seen = 0

    def around(self, operation, call):
        """The call, wrapped to kill the process if it is the one."""

        async def killable(*args, **kwargs):
            due = self.is_due(operation)
            if due and self.moment == "before":
                die()
            if due and self.moment == "during":
                threading.Timer(self.delay, die).start()
            value = await call(*args, **kwargs)
            if due and self.moment == "after":
                die()
            return value

        return killable

    def is_due(self, operation):
        if operation != self.operation:
            return False
        self.seen += 1
        return self.seen == self.number


def die():
    os.kill(os.getpid(), signal.SIGKILL)


async def main(config):
    reaper = Reaper(**config.get("kill", {"operation": "", "moment": "", "number": 0, "delay": 0}))
    warehouse = open_warehouse(config["warehouse"], schema=config.get("schema"))
    await warehouse.prepare()
    for operation in ("claim", "save_record", "publish"):
        setattr(warehouse, operation, reaper.around(operation, getattr(warehouse, operation)))
    start, end = map(date.fromisoformat, config["days"])
    window = Window(start, end, "Asia/Jerusalem")
    segments = [Segment.parse(key) for key in config["segments"]]
    as_of = datetime.fromisoformat(config["as_of"])
    receipts = await warehouse.receipts(config["site_id"], window)
    plan = make_plan(
        partitions_of(config["site_id"], window, segments),
        receipts,
        RefreshPolicy(Refresh.ALL, timedelta(0), as_of, datetime.now(UTC)),
    )
    auth = ApiKeyAuth(config["api_key"], config["site_id"])
    async with WixClient(auth, base_url=config["base_url"], requests_per_minute=100_000) as client:
        client.page_limit = config.get("page_limit", 1000)
        submit, page = client.list_sessions_async, client.get_list_sessions_job_result
        client.list_sessions_async = reaper.around("submit", submit)
        client.get_list_sessions_job_result = reaper.around("page", page)
        return await load_partitions(
            client,
            warehouse,
            [*plan.to_load],
            LoadOptions(
                as_of=as_of,
                jobs_in_flight=config.get("jobs_in_flight", 4),
                poll_policy=PollPolicy(first_wait_seconds=0.02, longest_wait_seconds=0.2),
                run_id=config.get("run_id"),
            ),
            on_progress=nothing,
        )


async def nothing(result):
    """Progress is ignored."""


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))

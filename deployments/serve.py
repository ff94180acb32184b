"""``python -m deployments.serve``: the deployments of prefect.yaml, served without a worker.

Runs until it is stopped. Needs a Prefect server and the block documents (``python -m blocks``).
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from prefect import aserve
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Cron

from flows.list_sessions import list_sessions
from flows.load_sessions import load_sessions
from flows.load_site import load_site
from flows.load_sites import load_sites
from flows.mark_recordings import mark_recordings
from flows.profile_sessions import profile_sessions
from prefect_wix.planning.plan import Refresh
from prefect_wix.tasks.events import LANDED_EVENT


def block_reference(slug: str) -> dict[str, Any]:
    """A parameter that refers to a block document, so that the deployment holds no secret."""
    return {"$ref": {"block_document_slug": slug}}


WAREHOUSE = {"warehouse": block_reference("wix-sessions-warehouse/sessions")}
CREDENTIALS = {"credentials": block_reference("wix-credentials/wix")}
BLOCKS = CREDENTIALS | WAREHOUSE
ACCOUNT = {"account": block_reference("wix-account-credentials/wix-account")} | WAREHOUSE
TAGS = ["wix"]
# The event of a load starts the profile of the days that landed.
AFTER_LOAD = DeploymentEventTrigger(
    name="wix: profile what landed",
    match={"prefect.resource.id": "wix.site.*"},
    expect={LANDED_EVENT},
    parameters={
        name: f"{{{{ event.payload.{name} }}}}"
        for name in ("site_id", "start_date", "end_date", "timezone")
    },
)


async def make_deployments(cron: str, timezone: str) -> list[RunnerDeployment]:
    """The deployments of prefect.yaml, for a process that serves them."""
    return [
        await list_sessions.ato_deployment("ad-hoc", parameters=CREDENTIALS, tags=TAGS),
        await load_sessions.ato_deployment(
            "daily",
            parameters=BLOCKS | {"days": 7, "lookback_days": 3},
            schedule=Cron(cron, timezone=timezone),
            concurrency_limit=1,
            tags=TAGS,
        ),
        await load_sessions.ato_deployment(
            "backfill",
            parameters=BLOCKS | {"refresh": Refresh.MISSING, "confirm": False},
            concurrency_limit=1,
            tags=TAGS,
        ),
        await profile_sessions.ato_deployment(
            "after-load",
            parameters=BLOCKS | {"days": 7},
            triggers=[AFTER_LOAD],
            concurrency_limit=1,
            tags=TAGS,
        ),
        await mark_recordings.ato_deployment(
            "ad-hoc", parameters=BLOCKS | {"confirm": False}, concurrency_limit=1, tags=TAGS
        ),
        await load_sites.ato_deployment(
            "daily",
            parameters=ACCOUNT | {"load": {"days": 7}, "deployment": "load-site/of-account"},
            schedule=Cron(cron, timezone=timezone, active=False),
            concurrency_limit=1,
            tags=TAGS,
        ),
        await load_site.ato_deployment("of-account", parameters=ACCOUNT, tags=TAGS),
    ]


async def serve_all(cron: str, timezone: str) -> None:
    """Register the deployments and execute their runs until stopped."""
    await aserve(*await make_deployments(cron, timezone))


def main() -> None:
    """Read the schedule from the command line and serve the deployments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cron", default="0 4 * * *", help="when to load (default: %(default)s)")
    parser.add_argument("--timezone", default="Etc/UTC", help="time zone of --cron: the site's own")
    options = parser.parse_args()
    asyncio.run(serve_all(options.cron, options.timezone))


if __name__ == "__main__":
    main()

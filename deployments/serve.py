"""``python -m deployments.serve``: the same deployments on one machine, without a worker.

Serves until it is stopped. Needs a Prefect server and the block documents (``python -m blocks``).
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from prefect import aserve
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Cron

from flows.list_sessions import list_sessions
from flows.load_sessions import load_sessions
from flows.profile_sessions import profile_sessions
from prefect_wix.announce import LANDED_EVENT


def block_reference(slug: str) -> dict[str, Any]:
    """A parameter that stays a reference, so that the server stores no secret with it."""
    return {"$ref": {"block_document_slug": slug}}


CREDENTIALS = block_reference("wix-credentials/wix")
WAREHOUSE = block_reference("wix-sessions-warehouse/sessions")
# Days that landed are profiled as soon as the event says so; nobody polls for them.
AFTER_LOAD = DeploymentEventTrigger(
    match={"prefect.resource.id": "wix.site.*"},
    expect={LANDED_EVENT},
    parameters={
        name: f"{{{{ event.payload.{name} }}}}"
        for name in ("site_id", "start_date", "end_date", "timezone")
    },
)


async def serve_all(cron: str, timezone: str) -> None:
    """Register the deployments and run what is due, until stopped."""
    ad_hoc = await list_sessions.ato_deployment("ad-hoc", parameters={"credentials": CREDENTIALS})
    daily = await load_sessions.ato_deployment(
        "daily",
        parameters={"credentials": CREDENTIALS, "warehouse": WAREHOUSE, "days": 7},
        schedule=Cron(cron, timezone=timezone),
        concurrency_limit=1,
    )
    after_load = await profile_sessions.ato_deployment(
        "after-load",
        parameters={"credentials": CREDENTIALS, "warehouse": WAREHOUSE, "days": 7},
        triggers=[AFTER_LOAD],
        concurrency_limit=1,
    )
    await aserve(ad_hoc, daily, after_load)


def main() -> None:
    """Read the schedule from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cron", default="0 4 * * *", help="when to load (default: %(default)s)")
    parser.add_argument("--timezone", default="Etc/UTC", help="the zone of --cron: the site's own")
    given = parser.parse_args()
    asyncio.run(serve_all(given.cron, given.timezone))


if __name__ == "__main__":
    main()

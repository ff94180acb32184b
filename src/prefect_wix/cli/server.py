"""The commands that prepare a Prefect server: setup, deploy, serve and automations."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from prefect_wix.blocks.documents import find_server, read_settings, save_documents
from prefect_wix.deployments import registration
from prefect_wix.deployments.automations import save_automations


def setup() -> None:
    """Save block types, block documents and rate limits on the Prefect server.

    The values come from environment variables and, below them, from the file .env in this folder:
    WIX_API_KEY, WIX_SITE_ID, WIX_WAREHOUSE_URL and others. Prints what was saved and what was
    skipped, and no secret. Can be repeated at any time.
    """
    if not _run(save_documents(read_settings(Path.cwd()))):
        sys.exit("Correct the invalid values in the environment or in .env, and run it again.")


def deploy(*, pool: str = "wix", cron: str | None = None, timezone: str | None = None) -> None:
    """Create or update the deployments for the workers of a pool.

    Args:
        pool: The name of the work pool.
        cron: When the daily loads start; "0 4 * * *" for a new deployment.
        timezone: The IANA time zone of the schedule: the site's own. Etc/UTC for a new deployment.
    """
    _run(registration.deploy(pool, cron=cron, timezone=timezone))


def serve(*, cron: str | None = None, timezone: str | None = None) -> None:
    """Execute the deployments in this process until it is stopped, without a worker.

    Args:
        cron: When the daily loads start; "0 4 * * *" for a new deployment.
        timezone: The IANA time zone of the schedule: the site's own. Etc/UTC for a new deployment.
    """
    _run(registration.serve(cron=cron, timezone=timezone))


def automations(*, notify: str | None = None) -> None:
    """Create or update the automations that watch the runs.

    Args:
        notify: The notification block to use, as TYPE/NAME, such as slack-webhook/on-call.
    """
    _run(save_automations(notify))


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    async def run() -> Any:
        await find_server()
        return await work

    try:
        return asyncio.run(run())
    finally:
        work.close()

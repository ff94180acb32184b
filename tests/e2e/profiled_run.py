"""Loads and profiles sessions in a separate process, on the Prefect server of the environment.

The tests of the Prefect UI run it: ``python -m tests.e2e.profiled_run '{"key": …}'``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import date

from prefect_wix import SessionsWarehouse, WixCredentials
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.flows.profile_sessions import profile_sessions

STEPS = (
    *("SITE_SESSIONS", "VIEWED_PRODUCT", "ADDED_TO_CART"),
    *("REACHED_CHECKOUT", "SESSIONS_CONVERTED"),
)
SEGMENTS = [
    *(f"device_type={device}" for device in ("DESKTOP", "MOBILE", "TABLET", "ALL")),
    *(f"conversion_funnel=+{step}" for step in STEPS),
]
WINDOW = (date(2024, 3, 1), date(2024, 3, 4))


async def main(config):
    credentials = WixCredentials(
        api_key=config["key"],
        site_id=config["site"],
        base_url=config["url"],
        requests_per_minute=100_000,
    )
    warehouse = SessionsWarehouse(url=f"duckdb:///{config['database']}")
    await load_sessions(credentials, warehouse, *WINDOW, segments=SEGMENTS)
    await profile_sessions(credentials, warehouse, *WINDOW, report=config["report"])


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))

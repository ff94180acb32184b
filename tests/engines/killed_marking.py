"""Mark IDs in a process of its own; `test_marking` kills it."""

from __future__ import annotations

import asyncio
import json
import sys

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import MarkAction
from prefect_wix.load.mark_recordings import mark_sessions
from prefect_wix.load.mark_records import MarkRecords
from prefect_wix.spool.id_spool import Spool
from prefect_wix.warehouse.factory import open_warehouse


async def main(config):
    url, schema = config["warehouse"]
    base_url, api_key, site_id = config["shop"]
    records = MarkRecords(open_warehouse(url, schema=schema), site_id, MarkAction.RECORDED)
    auth = ApiKeyAuth(api_key, site_id)
    with Spool() as spool:
        spool.add(config["ids"])
        async with WixClient(auth, base_url=base_url, requests_per_minute=100_000) as client:
            await mark_sessions(client, records, spool, calls_in_flight=4, on_progress=nothing)


async def nothing(summary):
    """Progress is ignored."""


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))

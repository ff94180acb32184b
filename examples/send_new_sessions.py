"""A flow that sends the new sessions of one segment to an HTTP endpoint, each at least once.

A Prefect variable keeps how far it has come. After a crash some sessions are sent again, with the
same idempotency key, and none is missed.
"""

from __future__ import annotations

import httpx
from prefect import flow
from prefect.variables import Variable

from prefect_wix import SessionsWarehouse
from prefect_wix.load.session_changes import read_session_changes


@flow(name="send-new-sessions")
async def send_new_sessions(
    warehouse: SessionsWarehouse, url: str, segment: str, variable: str = "wix_sent_sessions"
) -> int:
    """Send each session that was added to the segment since the last run.

    Args:
        warehouse: The block of the warehouse: DuckDB or PostgreSQL.
        url: The endpoint. It receives a JSON object for each session, by POST.
        segment: The segment, such as conversion_funnel=+ADDED_TO_CART-REACHED_CHECKOUT.
        variable: The Prefect variable that keeps how far this segment is sent.

    Returns:
        The number of sessions sent.
    """
    sent, token = 0, str(await Variable.aget(variable, ""))
    async with httpx.AsyncClient() as client:
        async for batch in read_session_changes(
            warehouse.get_warehouse(), since=token or None, segment=segment
        ):
            for one in batch.changes:
                if one.change == "added":
                    body = {"session": one.session_id, "day": str(one.session_date)}
                    headers = {"idempotency-key": one.idempotency_key}
                    (await client.post(url, json=body, headers=headers)).raise_for_status()
                    sent += 1
            await Variable.aset(variable, batch.token, overwrite=True)
    return sent

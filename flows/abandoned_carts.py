"""An ad-hoc question with defaults: who filled a cart and did not reach the checkout?"""

from __future__ import annotations

from prefect import flow

from prefect_wix import DeviceType, FunnelStep, Period, SessionsQuery, WixCredentials
from prefect_wix.flows.list_sessions import list_sessions

CARTS = SessionsQuery(
    period=Period.LAST_7_DAYS,
    funnel_include=FunnelStep.ADDED_TO_CART,
    funnel_exclude=FunnelStep.REACHED_CHECKOUT,
)
MOBILE = SessionsQuery(period=Period.LAST_7_DAYS, device_type=DeviceType.MOBILE)


@flow(name="abandoned-carts")
async def abandoned_carts(
    credentials: WixCredentials, carts: SessionsQuery = CARTS, device: SessionsQuery = MOBILE
) -> int:
    """Count the sessions of one query that are also in another: abandoned carts on phones.

    Args:
        credentials: The Wix credentials block of the site.
        carts: The sessions to count.
        device: The sessions to count them among.

    Returns:
        The number of sessions in both.
    """
    found = await list_sessions(credentials, carts)
    among = await list_sessions(credentials, device)
    return len({*(found.session_ids or ())} & {*(among.session_ids or ())})

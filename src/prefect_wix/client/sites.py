"""The sites of an account, page by page."""

from __future__ import annotations

from prefect_wix.client.client import WixClient
from prefect_wix.client.models import Site
from prefect_wix.errors import InvalidResponseError

__all__ = ["list_sites"]


async def list_sites(client: WixClient) -> list[Site]:
    """Every site of the account, once, in Wix's order.

    Args:
        client: one with `prefect_wix.client.AccountKeyAuth`.

    Raises:
        RequestError: see the tree in `prefect_wix.errors`.
        InvalidResponseError: Wix's pages go round in a circle, so that the list has no end.
    """
    sites: dict[str, Site] = {}
    page = await client.query_sites()
    followed: set[str] = set()
    while True:
        sites.update((site.id, site) for site in page.sites if site.id not in sites)
        if page.cursor is None:
            return list(sites.values())
        if page.cursor in followed:
            raise InvalidResponseError(
                "Wix handed out the same cursor twice, so the list of sites has no end. Try again, "
                "or name the sites."
            )
        followed.add(page.cursor)
        page = await client.query_sites(page.cursor)

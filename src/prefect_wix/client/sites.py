"""All sites of an account, from the pages of `WixClient.query_sites`."""

from prefect_wix.client.client import WixClient
from prefect_wix.client.models import Site
from prefect_wix.errors import InvalidResponseError


async def list_sites(client: WixClient) -> list[Site]:
    """Every site of the account, without duplicates, in Wix's order.

    Args:
        client: a client with `prefect_wix.client.AccountKeyAuth`.

    Raises:
        RequestError: see the tree in `prefect_wix.errors`.
        InvalidResponseError: Wix returned a cursor twice, so that the list has no end.
    """
    sites: dict[str, Site] = {}
    page = await client.query_sites()
    seen_cursors: set[str] = set()
    while True:
        sites.update((site.id, site) for site in page.sites if site.id not in sites)
        if page.cursor is None:
            return list(sites.values())
        if page.cursor in seen_cursors:
            raise InvalidResponseError(
                "Wix returned the same cursor twice, so the list of sites has no end. Try again, "
                "or give the site IDs."
            )
        seen_cursors.add(page.cursor)
        page = await client.query_sites(page.cursor)

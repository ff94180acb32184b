"""All sites of an account, from the pages of `WixClient.query_sites`."""

from prefect_wix.client.client import WixClient
from prefect_wix.client.models import Site
from prefect_wix.errors import InvalidResponseError

PAGES_WITHOUT_NEW_SITE = 10
"""After this many such pages in a row the list has no end. A few of them may be legal, since Wix
leaves headless sites out, and the list can change while it is read."""


async def list_sites(client: WixClient) -> list[Site]:
    """Every site of the account, without duplicates, in Wix's order.

    Args:
        client: a client with `prefect_wix.client.AccountKeyAuth`.

    Raises:
        RequestError: see the tree in `prefect_wix.errors`.
        InvalidResponseError: 10 pages in a row had no new site, so that the list has no end.
    """
    sites: dict[str, Site] = {}
    cursor, without_new_site = None, 0
    while without_new_site < PAGES_WITHOUT_NEW_SITE:
        page = await client.query_sites(cursor)
        known = len(sites)
        sites.update((site.id, site) for site in page.sites if site.id not in sites)
        if page.cursor is None:
            return list(sites.values())
        cursor = page.cursor
        without_new_site = 0 if len(sites) > known else without_new_site + 1
    raise InvalidResponseError(
        f"Wix returned {PAGES_WITHOUT_NEW_SITE} pages in a row without a new site, so the list of "
        "sites has no end. Try again, or give the site IDs."
    )

"""The sites of an account: the whole list of them, and what became of the load of each.

Asks for pages of sites and nothing else. How loads are started is `prefect_wix.site_runs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect_wix.client import WixClient
from prefect_wix.errors import UnreadableReplyError
from prefect_wix.models import Site

__all__ = ["SiteRun", "list_sites"]


async def list_sites(client: WixClient) -> list[Site]:
    """Every site of the account, once, in Wix's order.

    Args:
        client: one with `prefect_wix.client.AccountKeyAuth`.

    Raises:
        RequestError: see the tree in `prefect_wix.errors`.
        UnreadableReplyError: Wix's pages go round in a circle, so that the list has no end.
    """
    sites: dict[str, Site] = {}
    page = await client.query_sites()
    followed: set[str] = set()
    while True:
        sites.update((site.id, site) for site in page.sites if site.id not in sites)
        if page.cursor is None:
            return list(sites.values())
        if page.cursor in followed:
            raise UnreadableReplyError(
                "Wix handed out the same cursor twice, so the list of sites has no end. Try again, "
                "or name the sites."
            )
        followed.add(page.cursor)
        page = await client.query_sites(page.cursor)


@dataclass(frozen=True)
class SiteRun:
    """What became of the load of one site."""

    site: Site
    state: str
    """The state of its run, as Prefect calls it."""
    completed: bool
    """Whether all of it landed."""
    run: str
    """The run's address in the UI, or its id where there is no UI; empty where none was begun."""
    sessions: int = 0
    """Sessions in the partitions that landed, or that are as they were."""
    failed_partitions: int = 0
    reason: str = ""
    """Why it is not complete, in words."""

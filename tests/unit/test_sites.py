"""The list of an account's sites: all of them, each once, or an error."""

from __future__ import annotations

import pytest
from test_client import asking, reply

from prefect_wix.client.auth import AccountKeyAuth, ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.retry import RetryPolicy
from prefect_wix.client.sites import list_sites
from prefect_wix.errors import InvalidResponseError, PermissionDeniedError
from prefect_wix.sandbox import World, running

ACCOUNT = AccountKeyAuth("key", "account-1")


def page(*ids, cursor=None, more=None):
    """One answer of "Query Sites"."""
    metadata = {"cursors": {"next": cursor} if cursor else {}}
    metadata |= {} if more is None else {"hasNext": more}
    return reply(
        body={"sites": [{"id": one, "name": f"Shop {one}"} for one in ids]} | {"metadata": metadata}
    )


async def test_the_question_goes_out_as_documented():
    """The key raw with the account's id and no site's; the cursor of a page asks for the next."""
    async with asking(page("a", cursor="2"), page("b"), auth=ACCOUNT) as (wix, client):
        sites = await list_sites(client)
    assert [(site.id, site.name) for site in sites] == [("a", "Shop a"), ("b", "Shop b")]
    assert wix.endpoints == ["POST /site-list/v2/sites/query"] * 2
    assert [asked.body["query"]["cursorPaging"] for asked in wix.asked] == [
        {"limit": 100},
        {"limit": 100, "cursor": "2"},
    ]
    for asked in wix.asked:
        assert asked.headers["authorization"] == "key"
        assert asked.headers["wix-account-id"] == "account-1"
        assert "wix-site-id" not in asked.headers


async def test_every_site_of_a_large_account_is_listed():
    """More sites than a page holds come in order, each once."""
    with running(World(), sites=250) as sandbox:
        auth = AccountKeyAuth(sandbox.api_key, sandbox.account_id)
        async with WixClient(auth, base_url=sandbox.url) as client:
            sites = await list_sites(client)
        assert [site.id for site in sites] == list(sandbox.worlds)
        assert sandbox.count("sites") == 3


async def test_a_site_on_two_pages_is_listed_once():
    """A list that moves while it is read does not load a site twice."""
    async with asking(page("a", "b", cursor="2"), page("b", "c"), auth=ACCOUNT) as (_, client):
        assert [site.id for site in await list_sites(client)] == ["a", "b", "c"]


async def test_the_last_page_may_hold_a_cursor():
    """Where Wix says that no page follows, none is asked for."""
    async with asking(page("a", cursor="2", more=False), auth=ACCOUNT) as (wix, client):
        await list_sites(client)
    assert len(wix.asked) == 1


async def test_a_circle_of_pages_is_an_error():
    """A cursor that comes back would be followed for ever."""
    async with asking(page("a", cursor="2"), auth=ACCOUNT) as (_, client):
        with pytest.raises(InvalidResponseError, match="same cursor twice"):
            await list_sites(client)


@pytest.mark.parametrize("body", [{}, {"sites": {}}, {"sites": [{"name": "x"}]}, {"sites": ["a"]}])
async def test_no_site_is_dropped_or_made_up(body):
    """An answer without sites, or a site without an id, is no list."""
    async with asking(reply(body=body), auth=ACCOUNT, retry=RetryPolicy(times=0)) as (_, client):
        with pytest.raises(InvalidResponseError, match="to POST /site-list"):
            await list_sites(client)


async def test_a_lost_answer_is_asked_for_again():
    """The list only reads, so it may be asked for twice."""
    async with asking(b"", page("a"), auth=ACCOUNT) as (wix, client):
        assert len(await list_sites(client)) == 1
    assert len(wix.asked) == 2


async def test_a_sites_key_is_refused_the_account():
    """Asked as a site, Wix answers 403; the error says so at once."""
    with running(World()) as sandbox:
        auth = ApiKeyAuth(sandbox.api_key, sandbox.site_id)
        async with WixClient(auth, base_url=sandbox.url, retry=RetryPolicy(times=0)) as client:
            with pytest.raises(PermissionDeniedError):
                await list_sites(client)


def test_an_account_key_says_nothing_of_itself():
    """The key is in no repr; what can't be sent is refused without being repeated."""
    assert "key" not in repr(AccountKeyAuth("key-c4nary", "account-1")).replace(
        "AccountKeyAuth", ""
    )
    with pytest.raises(ValueError, match="account_id is empty") as refusal:
        AccountKeyAuth("c4nary", " ")
    assert "c4nary" not in str(refusal.value)

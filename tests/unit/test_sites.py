"""The sites of an account: a complete list without duplicates, or an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.assets import Asset
from prefect.exceptions import ParameterTypeError
from test_client import raw_response, serving

from prefect_wix import (
    SessionsWarehouse,
    WixAccountCredentials,
    WixAppCredentials,
    WixCredentials,
)
from prefect_wix.blocks.shared_limit import limit_name
from prefect_wix.client.auth import AccountKeyAuth, ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import SITE_ID
from prefect_wix.client.sites import list_sites
from prefect_wix.errors import InvalidResponseError, PermissionDeniedError
from prefect_wix.flows.load_sites import load_sites
from prefect_wix.sandbox import World, running

ACCOUNT = AccountKeyAuth("key", "account-1")


def page(*ids, cursor=None, more=None):
    """A response of "Query Sites"."""
    metadata = {"cursors": {"next": cursor} if cursor else {}}
    metadata |= {} if more is None else {"hasNext": more}
    return raw_response(
        body={"sites": [{"id": one, "name": f"Shop {one}"} for one in ids]} | {"metadata": metadata}
    )


async def test_sites_are_requested_as_documented():
    """A request has the key, the account's ID, no site ID, and the cursor of the previous page."""
    async with serving(page("a", cursor="2"), page("b"), auth=ACCOUNT) as (wix, client):
        sites = await list_sites(client)
    assert [(site.id, site.name) for site in sites] == [("a", "Shop a"), ("b", "Shop b")]
    assert wix.endpoints == ["POST /site-list/v2/sites/query"] * 2
    assert [request.body["query"]["cursorPaging"] for request in wix.requests] == [
        {"limit": 100},
        {"limit": 100, "cursor": "2"},
    ]
    for request in wix.requests:
        assert request.headers["authorization"] == "key"
        assert request.headers["wix-account-id"] == "account-1"
        assert "wix-site-id" not in request.headers


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ({"name": "headless-0c87", "displayName": "Shop a"}, "Shop a"),
        ({"name": "headless-0c87", "displayName": " "}, "headless-0c87"),
        ({"name": "headless-0c87", "displayName": None}, "headless-0c87"),
        ({}, ""),
    ],
)
async def test_a_site_has_its_display_name(names, shown):
    """It is what the owner calls the site; `name` is a part of its address."""
    body = {"sites": [{"id": "a"} | names]}
    async with serving(raw_response(body=body), auth=ACCOUNT) as (_, client):
        assert [site.name for site in await list_sites(client)] == [shown]


async def test_every_site_of_a_large_account_is_listed():
    """All three pages are read, and the sites keep their order."""
    with running(World(), sites=250) as sandbox:
        auth = AccountKeyAuth(sandbox.api_key, sandbox.account_id)
        async with WixClient(auth, base_url=sandbox.url) as client:
            sites = await list_sites(client)
        assert [site.id for site in sites] == list(sandbox.worlds)
        assert sandbox.count("sites") == 3


async def test_a_site_on_two_pages_is_listed_once():
    """The list can change while its pages are read."""
    async with serving(page("a", "b", cursor="2"), page("b", "c"), auth=ACCOUNT) as (_, client):
        assert [site.id for site in await list_sites(client)] == ["a", "b", "c"]


async def test_a_cursor_is_ignored_where_wix_reports_no_next_page():
    async with serving(page("a", cursor="2", more=False), auth=ACCOUNT) as (wix, client):
        await list_sites(client)
    assert len(wix.requests) == 1


@pytest.mark.parametrize("cursor", [None, "", 2])
async def test_a_next_page_without_a_cursor_is_an_error(cursor):
    """As the last page it would lose the sites of the next pages silently."""
    body = {"sites": [{"id": "a"}], "metadata": {"hasNext": True, "cursors": {"next": cursor}}}
    async with serving(raw_response(body=body), auth=ACCOUNT, retries=0) as (_, client):
        with pytest.raises(InvalidResponseError, match=r"without a cursor|an invalid cursor"):
            await list_sites(client)


@pytest.mark.parametrize("ids", [["a"], []])
@pytest.mark.parametrize("cursors", [["2"], [f"cursor {n}" for n in range(50)]])
async def test_a_list_of_sites_without_an_end_is_an_error(ids, cursors):
    """Cursors repeat or are ever new: after 10 pages without a new site the list fails."""
    pages = [page("a", cursor="1"), *(page(*ids, cursor=cursor) for cursor in cursors)]
    async with serving(*pages, auth=ACCOUNT) as (wix, client):
        with pytest.raises(InvalidResponseError, match="10 pages in a row without a new site"):
            await list_sites(client)
    assert len(wix.requests) == 11


async def test_a_page_without_a_new_site_is_not_the_last_one():
    """Wix leaves headless sites out, so that a page may be empty; the list goes on after it."""
    some_empty = [page(cursor=f"{n}") for n in range(9)]
    pages = [page("a", cursor="x"), *some_empty, page("b", cursor="y"), *some_empty, page("c")]
    async with serving(*pages, auth=ACCOUNT) as (_, client):
        assert [site.id for site in await list_sites(client)] == ["a", "b", "c"]


@pytest.mark.parametrize("body", [{}, {"sites": {}}, {"sites": [{"name": "x"}]}, {"sites": ["a"]}])
async def test_a_response_without_sites_or_with_a_site_without_id_is_invalid(body):
    async with serving(raw_response(body=body), auth=ACCOUNT, retries=0) as (_, client):
        with pytest.raises(InvalidResponseError, match="for POST /site-list"):
            await list_sites(client)


async def test_a_page_whose_response_was_lost_is_fetched_again():
    async with serving(b"", page("a"), auth=ACCOUNT) as (wix, client):
        assert len(await list_sites(client)) == 1
    assert len(wix.requests) == 2


async def test_the_key_of_a_site_cannot_list_the_sites_of_the_account():
    with running(World()) as sandbox:
        auth = ApiKeyAuth(sandbox.api_key, sandbox.site_id)
        async with WixClient(auth, base_url=sandbox.url, retries=0) as client:
            with pytest.raises(PermissionDeniedError):
                await list_sites(client)


def test_an_account_key_is_in_no_repr_and_in_no_error():
    assert "key" not in repr(AccountKeyAuth("key-c4nary", "account-1")).replace(
        "AccountKeyAuth", ""
    )
    with pytest.raises(ValueError, match="account_id is empty") as caught:
        AccountKeyAuth("c4nary", " ")
    assert "c4nary" not in str(caught.value)


BAD_IDS = ["", " ", "a b", "a#b", 'a"b', "a'b", "a%b", "a/b", "{a}", "a\nb", "é", "..", "a" * 201]
WAYS_IN = {
    "key": lambda site: WixCredentials(api_key="key", site_id=site),
    "app": lambda site: WixAppCredentials(app_id="app", app_secret="s", instance_id=site),
    "account": lambda site: WixAccountCredentials(api_key="key", account_id="a").for_site(site),
    "load_sites": lambda site: load_sites.validate_parameters(load_of(sites=["a", site])),
}


def load_of(**site):
    account = WixAccountCredentials(api_key="key", account_id="a")
    return {
        "account": account,
        "warehouse": SessionsWarehouse(url="duckdb:///x.duckdb"),
        "load": {},
    } | site


@pytest.mark.parametrize("site_id", BAD_IDS)
@pytest.mark.parametrize("way", WAYS_IN)
def test_a_site_id_is_refused_where_it_comes_in(way, site_id):
    """Otherwise Prefect would refuse the site's asset after everything landed."""
    with pytest.raises((ValueError, ParameterTypeError), match="The site ID is empty or"):
        WAYS_IN[way](site_id)


@pytest.mark.parametrize("site_id", BAD_IDS)
async def test_a_listed_site_with_such_an_id_is_an_invalid_response(site_id):
    async with serving(page("a", site_id), auth=ACCOUNT, retries=0) as (_, client):
        with pytest.raises(InvalidResponseError, match="a site without a valid ID"):
            await list_sites(client)


@given(st.from_regex(SITE_ID, fullmatch=True))
def test_every_accepted_site_id_names_an_asset_and_a_rate_limit(site_id):
    """Prefect restricts the characters of both."""
    assert Asset(key=f"wix://{site_id}/sessions")
    assert limit_name(site_id) == f"wix-{site_id}"
    assert WixCredentials(api_key="key", site_id=f" {site_id}\n").site_id == site_id

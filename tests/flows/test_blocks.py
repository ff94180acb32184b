"""The blocks, as a Prefect server keeps them."""

from __future__ import annotations

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

import prefect_wix
from blocks.__main__ import save_documents
from prefect_wix import (
    SessionsWarehouse,
    WixAccountCredentials,
    WixAppCredentials,
    WixCredentials,
)
from prefect_wix.blocks.shared_limit import rate_limit_for
from prefect_wix.client.rate_limiter import GLOBAL_LIMIT_BATCH
from prefect_wix.client.sites import list_sites

BLOCKS = [WixCredentials, WixAccountCredentials, WixAppCredentials, SessionsWarehouse]


@pytest.mark.parametrize("block", BLOCKS)
class TestStandard(BlockStandardTestSuite):
    """What Prefect asks of every block."""

    @pytest.fixture
    def block(self, request):
        return request.param


def test_the_package_offers_its_blocks_to_register():
    """`prefect block register -m prefect_wix` finds exactly the block types."""
    members = {name: getattr(prefect_wix, name) for name in dir(prefect_wix)}
    offered = {name for name, member in members.items() if Block.is_block_class(member)}
    assert offered == {block.__name__ for block in BLOCKS}


async def test_credentials_come_back_whole(credentials):
    """A block that is saved and loaded asks the same site with the same key."""
    await credentials.asave("round-trip")
    loaded = await WixCredentials.aload("round-trip")
    assert loaded.api_key == credentials.api_key
    async with loaded.get_client() as client:
        assert await client.get_site_timezone() == "Asia/Jerusalem"


async def test_an_account_lists_its_sites_and_asks_each(shop):
    """One stored key lists the sites and, for each of them, asks as the site."""
    account = WixAccountCredentials(
        api_key=shop.api_key, account_id=shop.account_id, base_url=shop.url, requests_per_minute=99
    )
    await account.save("round-trip", overwrite=True)
    loaded = await WixAccountCredentials.aload("round-trip")
    async with loaded.get_client() as client:
        (site,) = await list_sites(client)
    credentials = loaded.for_site(site.id)
    assert (site.id, credentials.requests_per_minute) == (shop.site_id, 99)
    async with credentials.get_client() as client:
        assert await client.get_site_timezone() == "Asia/Jerusalem"


async def test_app_credentials_ask_for_their_instance(shop):
    """An app's secret is traded for a token; partitions are filed under the instance."""
    credentials = WixAppCredentials(
        app_id=shop.app_id,
        app_secret=shop.app_secret,
        instance_id=shop.instance_id,
        base_url=shop.url,
    )
    assert credentials.site_id == shop.instance_id
    async with credentials.get_client() as client:
        assert await client.get_site_timezone() == "Asia/Jerusalem"
    assert shop.tokens_minted == 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"api_key": "c4nary\nkey"}, "api_key is empty or holds characters that no api_key has"),
        ({"api_key": " "}, "api_key is empty"),
        ({"site_id": ""}, "site_id is empty"),
        ({"base_url": "http://wix.example"}, "base_url must be https"),
        ({"base_url": "https://me:c4nary@wix.example"}, "must not hold a user name or password"),
    ],
)
def test_bad_fields_are_refused_in_words(fields, sentence):
    """A field that can't work is refused when the block is made, and not repeated."""
    good = {"api_key": "key", "site_id": "site"}
    with pytest.raises(ValidationError, match=sentence) as refusal:
        WixCredentials(**{**good, **fields})
    assert "c4nary" not in str(refusal.value)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"url": "oracle://scott:c4nary@db"}, "No warehouse is known"),
        ({"url": "duckdb://relative"}, "three slashes: relative"),
        ({"url": "duckdb:///x.duckdb", "schema": 'a"; DROP'}, "must be letters, digits"),
    ],
)
def test_bad_warehouses_are_refused_in_words(fields, sentence):
    """A warehouse that no engine serves is refused when the block is made."""
    with pytest.raises(ValidationError, match=sentence) as refusal:
        SessionsWarehouse(**fields)
    assert "c4nary" not in str(refusal.value)


async def test_documents_are_made_from_variables():
    """`python -m blocks` saves what is set, names what is missing, and never says a secret."""
    said = []
    settings = {"WIX_API_KEY": "c4nary-key", "WIX_SITE_ID": "site", "WIX_WAREHOUSE_URL": "md:shop"}
    for _ in range(2):
        assert await save_documents(settings, said.append)
    assert (
        said[:5]
        == said[5:]
        == [
            "saved     wix-credentials/wix",
            "saved     limit wix-site: 200 requests a minute",
            "left out  wix-app-credentials/wix-app: "
            "set WIX_APP_ID and WIX_APP_SECRET and WIX_INSTANCE_ID to have it",
            "left out  wix-account-credentials/wix-account: "
            "set WIX_ACCOUNT_API_KEY and WIX_ACCOUNT_ID to have it",
            "saved     wix-sessions-warehouse/sessions",
        ]
    )
    assert (await WixCredentials.aload("wix")).api_key.get_secret_value() == "c4nary-key"
    assert "c4nary" not in "".join(said)


@pytest.mark.parametrize("requests_per_minute", [10, 60, 200, 1000])
def test_no_minute_of_the_shared_limit_holds_more_than_the_budget(requests_per_minute):
    """All slots may go at once, and those that come back within the minute after them."""
    rate = rate_limit_for(requests_per_minute)
    assert rate.limit + 60 * rate.slot_decay_per_second <= requests_per_minute
    assert rate.limit + 60 * rate.slot_decay_per_second >= 0.6 * requests_per_minute
    assert rate.limit >= GLOBAL_LIMIT_BATCH


async def test_a_refused_document_is_said_and_fails():
    """A variable that is no good is refused in words; the others are saved all the same."""
    said = []
    settings = {
        "WIX_API_KEY": "c4nary\nkey",
        "WIX_SITE_ID": "site",
        "WIX_WAREHOUSE_URL": "duckdb:///here.duckdb",
    }
    assert not await save_documents(settings, said.append)
    assert any(line.startswith("refused   wix-credentials/wix: ") for line in said)
    assert "saved     wix-sessions-warehouse/sessions" in said
    assert "c4nary" not in "".join(said)

"""The blocks, as a Prefect server stores them."""

from __future__ import annotations

import asyncio
import re
import struct

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

import prefect_wix
from prefect_wix import (
    SessionsWarehouse,
    WixAccountCredentials,
    WixAppCredentials,
    WixCredentials,
)
from prefect_wix.blocks.documents import save_documents
from prefect_wix.blocks.shared_limit import BATCH, limit_for
from prefect_wix.client.sites import list_sites
from tests.processes import ROOT

BLOCKS = [WixCredentials, WixAccountCredentials, WixAppCredentials, SessionsWarehouse]


@pytest.mark.parametrize("block", BLOCKS)
class TestStandard(BlockStandardTestSuite):
    """Prefect's requirements on every block."""

    @pytest.fixture
    def block(self, request):
        return request.param


def test_the_package_exports_its_block_types():
    """`prefect block register -m prefect_wix` finds exactly the block types."""
    members = {name: getattr(prefect_wix, name) for name in dir(prefect_wix)}
    exported = {name for name, member in members.items() if Block.is_block_class(member)}
    assert exported == {block.__name__ for block in BLOCKS}


async def test_saved_credentials_load_unchanged(credentials):
    """A block that is saved and loaded has the same key and site."""
    await credentials.asave("round-trip")
    loaded = await WixCredentials.aload("round-trip")
    assert loaded.api_key == credentials.api_key
    async with loaded.get_client() as client:
        assert await client.get_site_timezone() == "Asia/Jerusalem"


async def test_account_credentials_list_the_sites_and_work_for_each(shop):
    """One stored key lists the sites and sends requests for each of them."""
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


async def test_app_credentials_use_a_token_of_their_instance(shop):
    """The app secret is exchanged for one token; the instance ID is used as the site ID."""
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
        ({"api_key": "c4nary\nkey"}, "api_key is empty or not printable ASCII text"),
        ({"api_key": " "}, "api_key is empty"),
        ({"site_id": "c4nary key"}, "The site ID is empty or has other characters"),
        ({"site_id": ""}, "The site ID is empty"),
        ({"base_url": "http://wix.example"}, "base_url must be https"),
        ({"base_url": "https://me:c4nary@wix.example"}, "must not contain a user name or password"),
    ],
)
def test_invalid_fields_are_rejected_with_a_reason(fields, sentence):
    """An invalid field is rejected when the block is created, and its value is not repeated."""
    good = {"api_key": "key", "site_id": "site"}
    with pytest.raises(ValidationError, match=sentence) as caught:
        WixCredentials(**{**good, **fields})
    assert "c4nary" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"url": "oracle://scott:c4nary@db"}, "Unsupported warehouse URL"),
        ({"url": "duckdb://relative"}, "three slashes: relative"),
        ({"url": "duckdb:///x.duckdb", "schema": 'a"; DROP'}, "must be letters, digits"),
    ],
)
def test_invalid_warehouses_are_rejected_with_a_reason(fields, sentence):
    """A URL or schema that no engine supports is rejected when the block is created."""
    with pytest.raises(ValidationError, match=sentence) as caught:
        SessionsWarehouse(**fields)
    assert "c4nary" not in str(caught.value)


async def test_documents_are_created_from_variables():
    """`prefect-wix setup` saves what is set, names what is missing, and prints no secret."""
    lines = []
    settings = {
        "WIX_API_KEY": "c4nary-key",
        "WIX_SITE_ID": "site",
        "WIX_WAREHOUSE_URL": "duckdb:///x",
    }
    for _ in range(2):
        assert await save_documents(settings, echo=lines.append)
    assert (
        lines[:5]
        == lines[5:]
        == [
            "saved     wix-credentials/wix",
            "saved     limit wix-site: 200 requests a minute",
            "skipped   wix-app-credentials/wix-app: "
            "WIX_APP_ID and WIX_APP_SECRET and WIX_INSTANCE_ID are not set",
            "skipped   wix-account-credentials/wix-account: "
            "WIX_ACCOUNT_API_KEY and WIX_ACCOUNT_ID are not set",
            "saved     wix-sessions-warehouse/sessions",
        ]
    )
    assert (await WixCredentials.aload("wix")).api_key.get_secret_value() == "c4nary-key"
    assert "c4nary" not in "".join(lines)


@pytest.mark.parametrize("requests_per_minute", [10, 60, 200, 1000])
def test_the_shared_limit_admits_at_most_the_rate_limit_in_any_minute(requests_per_minute):
    """The worst minute acquires all slots at once plus the slots that decay within it."""
    rate = limit_for("site", requests_per_minute)
    assert rate.limit + 60 * rate.slot_decay_per_second <= requests_per_minute
    assert rate.limit + 60 * rate.slot_decay_per_second >= 0.6 * requests_per_minute
    assert rate.limit >= BATCH


async def test_an_invalid_document_is_reported_and_the_others_are_saved():
    """An invalid variable is reported with a reason and fails the command."""
    lines = []
    settings = {
        "WIX_API_KEY": "c4nary\nkey",
        "WIX_SITE_ID": "site",
        "WIX_WAREHOUSE_URL": "duckdb:///here.duckdb",
    }
    assert not await save_documents(settings, echo=lines.append)
    assert any(line.startswith("invalid   wix-credentials/wix: ") for line in lines)
    assert "saved     wix-sessions-warehouse/sessions" in lines
    assert "c4nary" not in "".join(lines)


@pytest.fixture
async def stored_blocks(shop, credentials, warehouse):
    """A document named example of each block type."""
    wire = {"base_url": shop.url, "requests_per_minute": 100_000}
    app = {"app_id": shop.app_id, "app_secret": shop.app_secret, "instance_id": shop.instance_id}
    account = {"api_key": shop.api_key, "account_id": shop.account_id}
    for block in (
        *(credentials, warehouse),
        *(WixAppCredentials(**app, **wire), WixAccountCredentials(**account, **wire)),
    ):
        await block.save("example", overwrite=True)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_logo_is_a_sharp_square_of_this_repository(block):
    """The UI shows it from the repository; PNG has the width and the height at byte 16."""
    path = str(block._logo_url).partition("/main/")[2]
    width, height = struct.unpack(">II", (ROOT / path).read_bytes()[16:24])
    assert 225 <= width == height < 1000


@pytest.mark.parametrize("where", ["script", "loop"])
@pytest.mark.parametrize("block", BLOCKS)
async def test_the_example_of_a_block_runs_as_copied(stored_blocks, block, where):
    """In a script no event loop runs; in a coroutine and in a notebook's cell one does."""
    example = re.search("```python\n(.*?)```", block.get_code_example(), re.DOTALL)[1]
    program = example.replace("BLOCK_NAME", "example")
    if where == "script":
        await asyncio.to_thread(exec, program, {})
    else:
        exec(program, {})

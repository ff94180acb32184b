"""A real shop's click-stream: the landed IDs equal those that SQL selects from the same file.

The IDs are computed twice from the file: by the sandbox, queried over HTTP and published to DuckDB;
and by SQL.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

import duckdb
import pytest

from prefect_wix.client.auth import ApiKeyAuth
from prefect_wix.client.client import WixClient
from prefect_wix.client.models import FunnelStep
from prefect_wix.jobs.poll_policy import PollPolicy
from prefect_wix.load.loader import load_partitions
from prefect_wix.load.partition_load import LoadOptions
from prefect_wix.planning.partitions import JobState, Partition
from prefect_wix.planning.segments import Segment
from prefect_wix.planning.windows import ONE_DAY, Window
from prefect_wix.profiles.profiling import profile_window, summarize
from prefect_wix.profiles.summary import RelationState
from prefect_wix.sandbox import World, running
from prefect_wix.warehouse.factory import open_warehouse
from tests.processes import ROOT

EVENTS = ROOT.parent / "shared" / "data" / "clickstream-2019-10-01.csv.gz"
DAY = date(2019, 10, 1)

pytestmark = pytest.mark.skipif(
    not EVENTS.exists(), reason="the click-stream file is not beside this checkout"
)

# The device, deepest funnel step and pages of each session, computed by SQL only.
SESSIONS = f"""
    CREATE TABLE sessions AS
    WITH events AS (
        SELECT *, row_number() OVER () AS place
        FROM read_csv('{EVENTS}', header = true, all_varchar = true)
        WHERE user_session IS NOT NULL
    )
    SELECT
        user_session AS id,
        CASE
            WHEN left(md5(user_session), 1) <= '7' THEN 'MOBILE'
            WHEN left(md5(user_session), 1) <= 'd' THEN 'DESKTOP'
            ELSE 'TABLET'
        END AS device,
        max(CASE event_type WHEN 'view' THEN 1 WHEN 'cart' THEN 2 WHEN 'purchase' THEN 4 END)
            AS depth,
        list(
            CASE event_type
                WHEN 'view' THEN '/product-page/' || product_id
                WHEN 'cart' THEN '/cart-page'
                ELSE '/thank-you-page'
            END ORDER BY event_time, place
        ) AS pages
    FROM events GROUP BY ALL
"""
STEPS = list(FunnelStep)


def device_cases():
    for device in ("DESKTOP", "MOBILE", "TABLET"):
        yield Segment.parse(f"device_type={device}"), f"device = '{device}'"
    yield Segment.parse("device_type=ALL"), "true"


def funnel_cases():
    for reached, step in enumerate(STEPS):
        yield Segment(funnel_include=step), f"depth >= {reached}"
        yield Segment(funnel_exclude=step), f"depth < {reached}"
        for missed, other in enumerate(STEPS):
            segment = Segment(funnel_include=step, funnel_exclude=other)
            yield segment, f"depth >= {reached} AND depth < {missed}"


def flow_cases():
    products = ("/product-page/1004856", "/product-page/1005115")
    flows = [
        [""],
        ["", ""],
        ["", "__DROP__"],
        ["", "", "__DROP__"],
        ["", "", "", "__DROP__"],
        ["", "/cart-page"],
        ["", "/cart-page", "/thank-you-page"],
        ["", "/cart-page", "__DROP__"],
        ["", "", "/cart-page"],
        ["/cart-page"],
        ["/{Homepage}"],
        [products[0]],
        [products[0], "__DROP__"],
        [products[0], products[0]],
        [products[1], ""],
    ]
    for flow in flows:
        yield Segment(page_interactions=tuple(flow)), flow_in_sql(flow)


def flow_in_sql(flow):
    pages = [page for page in flow if page != "__DROP__"]
    terms = [f"pages[{n}] = '{page}'" for n, page in enumerate(pages, start=1) if page]
    length = "=" if len(pages) < len(flow) else ">="
    return " AND ".join([*terms, f"len(pages) {length} {len(pages)}"])


CASES = [*device_cases(), *funnel_cases(), *flow_cases()]


async def test_every_filter_lands_the_ids_that_sql_selects(tmp_path):
    """All devices, all pairs of funnel steps and 15 page flows land exactly."""
    _, _, outcomes = await land(tmp_path, [segment for segment, _ in CASES])
    with duckdb.connect(str(tmp_path / "sessions.duckdb")) as connection:
        connection.execute(SESSIONS)
        assert connection.execute("SELECT count(*) FROM sessions").fetchone() == (1906,)
        wrong = [
            (segment.key, landed, expected)
            for segment, condition in CASES
            for landed, expected in [compare(connection, segment.key, condition)]
            if landed != expected
        ]
    assert wrong == []
    assert sum(one.sessions > 0 for one in outcomes) > 25


async def test_every_session_is_profiled_as_sql_computes_it(tmp_path):
    """Lists of bare IDs give each session's device and deepest step, row by row."""
    devices = [segment for segment, _ in device_cases()]
    segments = [*devices, *(Segment(funnel_include=step) for step in STEPS)]
    warehouse, site_id, _ = await land(tmp_path, segments)
    window = Window(DAY, DAY + ONE_DAY, "UTC")
    assert await profile_window(warehouse, site_id, window, {}) == [DAY]
    summary = await summarize(warehouse, site_id, window, {})
    assert {row.state for row in summary.certificate} == {RelationState.HELD}
    with duckdb.connect(str(tmp_path / "sessions.duckdb")) as connection:
        connection.execute(SESSIONS)
        steps = ", ".join(f"'{step}'" for step in STEPS)
        true = f"SELECT id, device, list_extract([{steps}], depth + 1) FROM sessions ORDER BY 1"
        found = "SELECT session_id, device, deepest_step FROM wix_sessions ORDER BY 1"
        rows = connection.execute(found).fetchall()
        assert rows == connection.execute(true).fetchall()
    assert len(rows) == summary.sessions == 1906


async def land(tmp_path, segments):
    """Load the day by these segments."""
    warehouse = open_warehouse(f"duckdb:///{tmp_path}/sessions.duckdb")
    await warehouse.prepare()
    with running(World.from_events(EVENTS), now=datetime(2019, 10, 3, tzinfo=UTC)) as shop:
        auth = ApiKeyAuth(shop.api_key, shop.site_id)
        partitions = [Partition(shop.site_id, DAY, segment.key, "UTC") for segment in segments]
        async with WixClient(auth, base_url=shop.url, requests_per_minute=100_000) as client:
            outcomes = await load_partitions(
                client,
                warehouse,
                partitions,
                LoadOptions(
                    as_of=datetime.now(UTC), poll_policy=PollPolicy(first_wait_seconds=0.001)
                ),
                on_progress=nothing,
            )
    assert {one.state for one in outcomes} == {JobState.LANDED}
    return warehouse, shop.site_id, outcomes


def compare(connection, key, condition):
    """The landed IDs of a segment and those that match the condition, sorted, with duplicates."""
    landed = connection.execute(
        "SELECT session_id FROM wix_session_ids WHERE segment = ? ORDER BY 1", [key]
    ).fetchall()
    expected = connection.execute(f"SELECT id FROM sessions WHERE {condition} ORDER BY 1")
    return landed, expected.fetchall()


async def nothing(result):
    """Progress is ignored."""

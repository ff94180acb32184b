"""`prefect-wix check --api` notices each assumption that does not hold."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import UTC, datetime, time, timedelta
from random import Random

import pytest

from prefect_wix import WixAppCredentials, WixCredentials
from prefect_wix.cli import api_check
from prefect_wix.cli.api_check import ASSUMED, observe, show_comparison
from prefect_wix.errors import WixError
from prefect_wix.sandbox import Fault, Rules, Session, World, running

TODAY = datetime.combine(datetime.now(UTC).date(), time(), UTC)
RANDOM = Random(7)
WORLD = World(
    Session(id=f"{RANDOM.getrandbits(128):032x}", arrival=arrival, end=arrival + timedelta(hours=1))
    for age in range(10)
    # No two days have as many sessions, and the last ones of a day end on the next day.
    for arrival in (
        TODAY - timedelta(days=age - 1, minutes=9 * number + 1) for number in range(150 + age)
    )
)
"""About 150 sessions a day, so that a week has more than a page and a day has not."""
NEVER_OBSERVED = {"mark of an unknown session", "second mark of a session"}
PROVOKED = {"rate limit", "Retry-After"}


def credentials_of(shop):
    return WixCredentials(api_key=shop.api_key, site_id=shop.site_id, base_url=shop.url)


async def seen_by(rules=None, faults=(), *, world=WORLD, provoke_429=False, **options):
    """What differs from the assumptions, and all that is seen."""
    with running(world, rules=rules or Rules(), faults=faults, **options) as shop:
        seen = {}
        await observe(credentials_of(shop), seen, provoke_429=provoke_429)
        assert provoke_429 or shop.count() <= 20
    return {name: one for name, one in seen.items() if one != ASSUMED[name]}, seen


async def test_without_a_switched_rule_all_is_as_assumed():
    """What a few requests can't show is not observed, and nothing is marked."""
    differs, seen = await seen_by()
    assert differs == {}
    assert {*ASSUMED} - {*seen} == NEVER_OBSERVED | PROVOKED


SWITCHED = [
    ({"site_timezone_known": False}, {"time zone of the site": "unknown"}),
    (
        {"missing_authorization_is_forbidden": True},
        {"status without Authorization": "403"},
    ),
    ({"unknown_job_status": 200}, {"status of an unknown job": "200"}),
    ({"accepts_unset_enums": True}, {"unset enum value in a query": "accepted"}),
    ({"page_cap": 100}, {"largest limit of a page": "100"}),
    ({"sort": "id"}, {"order of the IDs": "by ID"}),
    (
        {"midnight": "both"},
        {"session over midnight": "on both days", "share of Wix's own count": "101%"},
    ),
    ({"last_n_days_includes_today": False}, {"LAST_7_DAYS ends": "yesterday"}),
    ({"counts_match": False}, {"share of Wix's own count": "95%"}),
    ({"job_lifetime_seconds": 1.5}, {"job after the check": "unknown"}),
    (
        {"job_lifetime_seconds": 1.5, "unknown_job_status": 200},
        {"job after the check": "unknown", "status of an unknown job": "200"},
    ),
]
NOT_SHOWN = {"accepts_unknown_marks", "accepts_repeated_marks", "token_seconds"}
"""Marks would change the site; the lifetime of a token is documented."""


@pytest.mark.parametrize(("rules", "differs"), SWITCHED)
async def test_a_switched_rule_is_noticed(rules, differs):
    # The counts are requested before the job is read again.
    faults = [Fault("slow", on="data", seconds=1.6)] if "job_lifetime_seconds" in rules else []
    found, _ = await seen_by(Rules(**rules), faults)
    assert found == differs


def test_every_rule_of_the_sandbox_is_compared_or_can_not_be_shown():
    switched = {name for rules, _ in SWITCHED for name in rules} | {"recorded_only"}
    assert switched | NOT_SHOWN == {field.name for field in fields(Rules)}


async def test_a_list_of_recorded_sessions_only_is_noticed():
    """No session of the sandbox is recorded, so that its lists are empty."""
    differs, seen = await seen_by(Rules(recorded_only=True))
    assert differs["session without a recording"] == "not listed"
    assert "order of the IDs" not in seen


@pytest.mark.parametrize(
    ("fault", "differs"),
    [
        (Fault("unstable_order"), {"page that is read again": "different"}),
        (Fault("changing_total"), {"page that is read again": "different"}),
        (Fault("repeats"), {"second page": "repeats IDs"}),
    ],
)
async def test_an_unstable_list_is_noticed(fault, differs):
    found, _ = await seen_by(faults=[fault])
    assert found.items() >= differs.items()


async def test_the_rate_limit_is_provoked_only_if_wanted(monkeypatch):
    """The number of requests that Wix accepted, and its Retry-After."""
    monkeypatch.setattr(api_check, "MINUTE", 0.0)
    # Of the 200 requests, some were sent before.
    for limit, retry_after in ((200, "none"), (None, "7")):
        faults = [] if limit else [Fault("rate_limited", on="result", after=50, retry_after=7)]
        with running(WORLD, faults=faults, requests_per_minute=limit) as shop:
            seen = {}
            await observe(credentials_of(shop), seen, provoke_429=True)
            accepted = sum(one.status == 404 for one in shop.requests) - 1
        assert seen["rate limit"] == f"429 after {accepted} requests"
        assert seen["Retry-After"] == retry_after


async def test_a_job_that_does_not_finish_ends_the_comparison(monkeypatch):
    """What was seen before is kept."""
    monkeypatch.setattr(api_check, "JOB_SECONDS", 0.5)
    seen = {}
    with (
        running(WORLD, faults=[Fault("job_never_finishes")]) as shop,
        pytest.raises(WixError, match=r"was not finished and read after 0\.5 s"),
    ):
        await observe(credentials_of(shop), seen)
    assert seen["status of an unknown job"] == "404"


async def test_an_app_is_compared_with_its_own_token():
    with running(WORLD) as shop:
        app = WixAppCredentials(
            app_id=shop.app_id,
            app_secret=shop.app_secret,
            instance_id=shop.instance_id,
            base_url=shop.url,
        )
        seen = {}
        await observe(app, seen)
    assert seen.items() <= ASSUMED.items()


async def test_the_counts_need_not_be_permitted():
    """They need another permission than a load, so that the rest is compared without them."""
    _, seen = await seen_by(faults=[Fault("forbidden", on="data")])
    assert {*ASSUMED} - {*seen} == NEVER_OBSERVED | PROVOKED | {
        "share of Wix's own count",
        "session without a recording",
    }


def test_the_table_is_printed_and_written_as_json(capsys, tmp_path):
    """What differs is marked, and what was not seen is named."""
    show_comparison({"order of the IDs": "by ID", "second page": "only new IDs"}, tmp_path / "x")
    shown = capsys.readouterr().out
    assert re.search(r"\n! order of the IDs +not by ID +by ID\n", shown)
    assert re.search(r"\n  second page +only new IDs +only new IDs\n", shown)
    assert re.search(r"\n  largest limit of a page +1000 +not observed\n", shown)
    written = json.loads((tmp_path / "x").read_text())["assumptions"]
    assert written["order of the IDs"] == {"assumed": "not by ID", "seen": "by ID"}
    assert [*written] == [*ASSUMED]


async def test_nothing_of_the_site_is_in_the_table():
    """Neither an ID nor the key nor a number of sessions."""
    with running(WORLD) as shop:
        seen = {}
        await observe(credentials_of(shop), seen)
        ids = {shop.world.ids[number] for number in range(len(shop.world))}
        secrets = {shop.api_key, shop.site_id, *shop.jobs, *ids}
    assert not secrets & {*seen.values()}
    assert all(len(one) < 25 for one in seen.values())

"""Foreign text in run names is not formatted, although Prefect formats name templates."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from datetime import date
from types import SimpleNamespace

import prefect.runtime
import pytest
from prefect import Flow, Task

import prefect_wix
from prefect_wix import SessionsQuery, WixAccountCredentials
from prefect_wix.client.models import MarkAction, SessionsJob
from prefect_wix.flows.load_sites import SiteLoad, load_sites
from prefect_wix.planning.windows import Window
from prefect_wix.tasks.run_names import run_name, sites_run_name
from tests.conftest import NOW

LOAD = SiteLoad(start_date="2024-03-01", end_date="2024-03-02", segments=["device_type=ALL"])
DAYS = "2024-03-01 to 2024-03-02"
NAMES = [
    "{account.api_key._secret_value}",
    "Shop {50% off}",
    "{} {0} { %(account)s",
]


@pytest.fixture
async def account(shop):
    """The account's key as a saved block."""
    block = WixAccountCredentials(
        api_key=shop.api_key,
        account_id=shop.account_id,
        base_url=shop.url,
        requests_per_minute=100_000,
    )
    await block.save("names", overwrite=True)
    return block


@pytest.mark.parametrize("name", NAMES)
async def test_a_site_name_is_not_formatted(shop, account, warehouse, prefect_server, caplog, name):
    """The site loads, and the key is not stored or logged."""
    caplog.set_level(logging.DEBUG)
    shop.site_names[shop.site_id] = name
    (run,) = await load_sites(account, warehouse, LOAD)
    assert (run.state, run.site.name) == ("Completed", name)
    assert shop.api_key not in caplog.text
    contents = await prefect_server.contents()
    assert f"load {name} ({shop.site_id})".encode() in contents
    assert shop.api_key.encode() not in contents


class Parameters(dict):
    """Parameters with a foreign text for every name that is not listed."""

    def __missing__(self, key):
        return NAMES[0]


def flows_and_tasks():
    for one in pkgutil.walk_packages(prefect_wix.__path__, "prefect_wix."):
        for value in vars(importlib.import_module(one.name)).values():
            if isinstance(value, (Flow, Task)):
                yield value


def test_no_flow_or_task_names_its_runs_with_a_template(monkeypatch):
    """Prefect would format a string with the parameters; every run name is a callable."""
    found = {one.name: one for one in flows_and_tasks()}
    assert {"load-sessions", "load_site", "submit_sessions_job"} <= set(found)
    names = {
        name: one.flow_run_name if isinstance(one, Flow) else one.task_run_name
        for name, one in found.items()
    }
    assert {name for name, run_name in names.items() if isinstance(run_name, str)} == set()
    job = SessionsJob(
        job_id=NAMES[0],
        query=SessionsQuery(period="TODAY", page_interactions=[NAMES[0]]),
        site_id=NAMES[0],
        submitted_at=NOW,
    )
    window = Window(date(2024, 3, 1), date(2024, 3, 2), "UTC")
    parameters = Parameters(
        job=job,
        query=job.query,
        window=window,
        action=MarkAction.RECORDED,
        credentials=SimpleNamespace(site_id=NAMES[0]),
        load=SiteLoad(),
    )
    monkeypatch.setitem(prefect.runtime.flow_run.FIELDS, "parameters", lambda: parameters)
    run_names = [
        run_name() if isinstance(found[name], Flow) else run_name(parameters=parameters)
        for name, run_name in names.items()
        if run_name
    ]
    assert len(run_names) == len(names), "a run has a random name"
    assert sum(NAMES[0] in run_name for run_name in run_names) >= 8


def test_a_name_has_the_subject_of_the_run():
    """A verb, the number of days or the dates, and the site."""
    assert sites_run_name(dict(SiteLoad()), None) == "load 7 days of all sites"
    assert sites_run_name(dict(SiteLoad(days=1)), ["site-1"]) == "load 1 day of site-1"
    dates = SiteLoad(start_date=date(2024, 3, 1), end_date=date(2024, 3, 2))
    assert sites_run_name(dict(dates), ["a", "b"]) == "load 2024-03-01 to 2024-03-02 of 2 sites"
    assert run_name("load partitions:", "items")(parameters={"items": [1]}) == "load partitions: 1"

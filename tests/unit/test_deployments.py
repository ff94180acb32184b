"""The files of the deployments, checked without a server."""

from __future__ import annotations

import re
from importlib import import_module
from inspect import signature

import pytest
import yaml

from blocks.__main__ import DOCUMENTS
from deployments.serve import make_deployments
from prefect_wix.tasks.events import LANDED_EVENT
from tests.warehouses import ROOT

FILE = ROOT / "deployments" / "prefect.yaml"
ENTRIES = yaml.safe_load(FILE.read_text())["deployments"]
BLOCKS = {"credentials", "account", "warehouse"}
SLUGS = {document.slug for document in DOCUMENTS}
# Long runs of characters, as in keys and tokens, and URLs with a password.
SECRET = re.compile(
    r"[A-Za-z0-9+=_-]{32,}|://[^/\s]*:[^/\s]*@|(?i:api[_-]?key|password|secret)\s*:"
)


def name_of(entry):
    module, _, function = entry["entrypoint"].removesuffix(".py").partition(".py:")
    flow = getattr(import_module(module.replace("/", ".")), function)
    return f"{flow.name}/{entry['name']}"


def flow_of(entry):
    path, _, function = entry["entrypoint"].partition(":")
    return getattr(import_module(path.removesuffix(".py").replace("/", ".")), function)


each = pytest.mark.parametrize("entry", ENTRIES, ids=name_of)


@each
def test_every_block_is_a_reference(entry):
    """A block parameter refers to a document that ``python -m blocks`` creates."""
    values = entry["parameters"]
    assert {name for name in signature(flow_of(entry).fn).parameters if name in BLOCKS} <= {*values}
    for name in BLOCKS & {*values}:
        assert values[name].keys() == {"$ref"}
        assert values[name]["$ref"]["block_document_slug"] in SLUGS


@each
def test_every_parameter_is_a_parameter_of_the_flow(entry):
    """An unknown parameter would fail only when a run starts."""
    flow = flow_of(entry)
    assert {*entry["parameters"]} <= {*flow.parameters.properties}
    for trigger in entry.get("triggers", ()):
        assert {*trigger["parameters"]} <= {*flow.parameters.properties}


@each
def test_every_deployment_has_a_description_and_the_tag(entry):
    """The description is a sentence, and all deployments have the tag wix."""
    assert entry["description"].endswith(".")
    assert entry["tags"] == ["wix"]


def test_the_file_contains_no_secret():
    """It contains no key, token or password, and no template that is filled with one."""
    text = FILE.read_text()
    assert not SECRET.search(text)
    assert "prefect.blocks" not in text
    assert "prefect.variables" not in text


def test_the_pattern_finds_secrets():
    """The pattern of the test above matches a key, a password in a URL and a token."""
    for text in (
        "api_key: x",
        "postgresql://me:word@host/db",
        "IST.eyJraWQiOiJQb3pIX2FDMiIsImFsZyI6",
    ):
        assert SECRET.search(text)


def test_loads_and_markings_of_a_site_do_not_run_concurrently():
    """Concurrent runs would submit the same jobs and send the same marks."""
    limits = {name_of(entry): entry.get("concurrency_limit") for entry in ENTRIES}
    assert limits["load-sessions/daily"] == 1
    assert limits["load-sessions/backfill"] == 1
    assert limits["load-sites/daily"] == 1
    assert limits["mark-recordings/ad-hoc"] == 1


def test_no_site_is_scheduled_twice():
    """Of the schedules of load-sessions and load-sites, only that of load-sessions is active."""
    active = {
        name_of(entry)
        for entry in ENTRIES
        for schedule in entry.get("schedules", ())
        if schedule.get("active", True)
    }
    assert active == {"load-sessions/daily"}


async def test_serve_has_the_same_deployments_as_the_file():
    """The names, parameters, tags, limits, schedules and triggers are equal."""
    served = {}
    for deployment in await make_deployments("0 4 * * *", "Etc/UTC"):
        served[f"{deployment.flow_name}/{deployment.name}"] = deployment
    assert {*served} == {name_of(entry) for entry in ENTRIES}
    for entry in ENTRIES:
        deployment = served[name_of(entry)]
        assert deployment.parameters == entry["parameters"]
        assert deployment.tags == entry["tags"]
        assert deployment.concurrency_limit == entry.get("concurrency_limit")
        assert [(one.schedule.cron, one.active) for one in deployment.schedules] == [
            (one["cron"], one.get("active", True)) for one in entry.get("schedules", ())
        ]
        triggers = [(one.name, one.expect, one.parameters) for one in deployment.triggers]
        assert triggers == [
            (one["name"], {*one["expect"]}, one["parameters"]) for one in entry.get("triggers", ())
        ]


def test_the_profile_is_triggered_by_the_event_of_a_load():
    """The file has the event name of the code."""
    (trigger,) = [one for entry in ENTRIES for one in entry.get("triggers", ())]
    assert trigger["expect"] == [LANDED_EVENT]

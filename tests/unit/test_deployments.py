"""What stands in the files of the deployments, without a server."""

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
# Long runs of characters as keys and tokens have, and URLs with a password in them.
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
    """A parameter that takes a block names its document, one that ``python -m blocks`` makes."""
    given = entry["parameters"]
    assert {name for name in signature(flow_of(entry).fn).parameters if name in BLOCKS} <= {*given}
    for name in BLOCKS & {*given}:
        assert given[name].keys() == {"$ref"}
        assert given[name]["$ref"]["block_document_slug"] in SLUGS


@each
def test_every_parameter_is_one_of_the_flow(entry):
    """A name that the flow does not have would only be refused when the run starts."""
    flow = flow_of(entry)
    assert {*entry["parameters"]} <= {*flow.parameters.properties}
    for trigger in entry.get("triggers", ()):
        assert {*trigger["parameters"]} <= {*flow.parameters.properties}


@each
def test_every_deployment_says_what_it_is_for(entry):
    """In the list of deployments a person reads a sentence, and finds them by one tag."""
    assert entry["description"].endswith(".")
    assert entry["tags"] == ["wix"]


def test_no_secret_stands_in_the_file():
    """Nothing in it looks like a key, a token or a password, and nothing is filled with one."""
    text = FILE.read_text()
    assert not SECRET.search(text)
    assert "prefect.blocks" not in text
    assert "prefect.variables" not in text


def test_what_looks_like_a_secret_is_found():
    """The test above can fail."""
    for text in (
        "api_key: x",
        "postgresql://me:word@host/db",
        "IST.eyJraWQiOiJQb3pIX2FDMiIsImFsZyI6",
    ):
        assert SECRET.search(text)


def test_two_loads_of_a_site_never_run_at_once():
    """Nor two markings: each would do again what the other does."""
    limits = {name_of(entry): entry.get("concurrency_limit") for entry in ENTRIES}
    assert limits["load-sessions/daily"] == 1
    assert limits["load-sessions/backfill"] == 1
    assert limits["load-sites/daily"] == 1
    assert limits["mark-recordings/ad-hoc"] == 1


def test_no_site_is_scheduled_twice():
    """All sites and the one site have a schedule each; one is off until a person chooses it."""
    on = {
        name_of(entry)
        for entry in ENTRIES
        for schedule in entry.get("schedules", ())
        if schedule.get("active", True)
    }
    assert on == {"load-sessions/daily"}


async def test_one_process_serves_the_same_deployments():
    """The file for workers and the program without one differ in how they run, not in what."""
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
        told = [(one.name, one.expect, one.parameters) for one in deployment.triggers]
        assert told == [
            (one["name"], {*one["expect"]}, one["parameters"]) for one in entry.get("triggers", ())
        ]


def test_the_profile_waits_for_the_event_that_a_load_emits():
    """The name of the event stands in the file and in the code."""
    (trigger,) = [one for entry in ENTRIES for one in entry.get("triggers", ())]
    assert trigger["expect"] == [LANDED_EVENT]

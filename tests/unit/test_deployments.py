"""The definitions of the package's deployments, and the starter project's, without a server."""

from __future__ import annotations

import re

import pytest
import yaml

from prefect_wix.blocks.documents import DOCUMENTS
from prefect_wix.deployments.definitions import DEPLOYMENTS
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.flows.load_sites import SiteLoad
from prefect_wix.planning.plan import WhenTooBig
from prefect_wix.tasks.events import LANDED_EVENT
from tests.warehouses import ROOT

FILE = ROOT / "deployments" / "prefect.yaml"
STARTER = yaml.safe_load(FILE.read_text())["deployments"]
BLOCKS = {"credentials", "account", "warehouse"}
SLUGS = {document.slug for document in DOCUMENTS}
# Long runs of characters, as in keys and tokens, and URLs with a password.
SECRET = re.compile(
    r"[A-Za-z0-9+=_-]{32,}|://[^/\s]*:[^/\s]*@|(?i:api[_-]?key|password|secret)\s*:"
)
each = pytest.mark.parametrize("definition", DEPLOYMENTS, ids=lambda one: one.full_name)


@each
def test_every_block_parameter_refers_to_documents_that_setup_creates(definition):
    parameters = definition.flow.parameters.properties
    assert {name for name in parameters if name in BLOCKS} == {*definition.blocks}
    for slugs in definition.blocks.values():
        assert {*slugs} <= SLUGS


@each
def test_every_parameter_is_a_parameter_of_the_flow(definition):
    """An unknown parameter would fail only when a run starts."""
    known = {*definition.flow.parameters.properties}
    assert {*definition.parameters} <= known
    for trigger in definition.triggers:
        assert {*trigger.parameters} <= known


@each
def test_every_deployment_has_a_description(definition):
    assert definition.description.endswith(".")


def test_the_names_can_be_told_apart():
    """The list of deployments shows the name first, and the flow below it."""
    names = [one.name for one in DEPLOYMENTS]
    assert len({*names}) == len(names)


def test_loads_and_markings_of_a_site_do_not_run_concurrently():
    """Concurrent runs would submit the same jobs and send the same marks."""
    limited = {one.full_name for one in DEPLOYMENTS if one.concurrency_limit == 1}
    assert limited >= {
        *("load-sessions/daily-load", "load-sessions/backfill"),
        *("load-sites/daily-sites", "mark-recordings/ad-hoc-marks"),
    }


def test_no_site_is_scheduled_twice():
    """Of all schedules only that of the daily load is active, also in the starter project."""
    assert [one.full_name for one in DEPLOYMENTS if one.is_active] == ["load-sessions/daily-load"]
    schedules = [schedule for entry in STARTER for schedule in entry.get("schedules", ())]
    assert [one["active"] for one in schedules] == [False]


def test_no_schedule_is_stopped_by_a_guard_that_only_a_person_can_lift():
    """A scheduled load that is too big loads a part; a backfill from the form is refused."""
    modes = {
        one.name: one.parameters.get("when_too_big", "refuse")
        for one in DEPLOYMENTS
        if one.flow is load_sessions
    }
    assert modes == {"daily-load": "partial", "hourly-today": "partial", "backfill": "refuse"}
    assert SiteLoad().when_too_big is WhenTooBig.PARTIAL


def test_the_profile_is_triggered_by_the_event_of_a_load():
    (trigger,) = [trigger for one in DEPLOYMENTS for trigger in one.triggers]
    assert trigger.expect == {LANDED_EVENT}


def test_load_sites_refers_to_a_deployment_that_loads_sites_itself():
    (sites,) = [one for one in DEPLOYMENTS if "deployment" in one.parameters]
    (other,) = [one for one in DEPLOYMENTS if one.full_name == sites.parameters["deployment"]]
    assert (other.flow, "deployment" in other.parameters) == (sites.flow, False)


@pytest.mark.parametrize("entry", STARTER, ids=lambda one: one["name"])
def test_the_starter_refers_to_documents_that_setup_creates(entry):
    assert entry["description"].endswith(".")
    assert {value["$ref"]["block_document_slug"] for value in entry["parameters"].values()} <= SLUGS


def test_the_starter_contains_no_secret():
    """It contains no key, token or password, and no template that is filled with one."""
    for path in (FILE, ROOT / "blocks" / ".env.example"):
        text = path.read_text()
        assert not SECRET.search(text), path
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

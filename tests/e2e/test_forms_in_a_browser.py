"""The run forms in a browser, and the parameters that the server rejects before a run.

On a real server with two workers; see `deployed`.
"""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from prefect_wix.deployments.definitions import DEPLOYMENTS
from prefect_wix.planning.segments import PROFILED
from tests.processes import wait_until

pytestmark = [
    pytest.mark.xdist_group("deployed"),
    # Prefect leaves its sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TODAY = {"period": "TODAY", "device_type": "ALL"}
INVALID = [
    (
        "list-sessions/ad-hoc-list",
        {"query": {**TODAY, "device_type": "FRIDGE"}},
        "query.device_type",
    ),
    ("list-sessions/ad-hoc-list", {"query": TODAY, "timeout_seconds": 0}, "timeout_seconds"),
    ("list-sessions/ad-hoc-list", {"query": TODAY, "output": "sessions.xlsx"}, "output"),
    ("list-sessions/ad-hoc-list", {"query": {"device_type": "ALL"}}, "query"),
    ("list-sessions/ad-hoc-list", {"wix_query": "TODAY"}, "wix_query"),
    ("load-sessions/daily-load", {"segments": ["device=MOBILE"]}, "segments"),
    ("load-sessions/daily-load", {"days": "seven"}, "days"),
    ("load-sites/daily-sites", {"sites": []}, "sites"),
    ("load-sites/daily-sites", {"load": {"refresh": "always"}}, "load.refresh"),
    ("load-sites/some-sites", {"sites": ["my site"]}, "sites"),
]


@pytest.mark.parametrize(("deployment", "invalid", "field"), INVALID)
def test_the_server_rejects_invalid_parameters(deployed, deployment, invalid, field):
    """No run is created, and the response names the field."""
    before = started(deployed, deployment)
    response = deployed.submit(deployment, **invalid)
    assert (response.status_code, field in response.text) == (409, True), response.text
    assert started(deployed, deployment) == before


def started(deployed, deployment):
    """The runs of a deployment's flow, without the scheduled ones."""
    runs = deployed.runs(deployment.partition("/")[0])
    return {run["id"] for run in runs if not run["auto_scheduled"]}


@pytest.fixture
def form(deployed, browser):
    """A function that opens the run form of a deployment."""

    def open_form(deployment):
        found = deployed.deployment(deployment)
        page = browser.new_page(viewport={"width": 1300, "height": 1800})
        page.goto(f"{deployed.url}/deployments/deployment/{found['id']}/run")
        page.get_by_role("heading", name="Parameters").wait_for()
        return page

    return open_form


UIS = {"V1": "", "V2": "/v2"}
NEEDED = {"mark-recordings/ad-hoc-marks": "action"}
"""The forms that a person must fill, and the field."""


@pytest.fixture
def paused_pool(deployed):
    """No worker starts a run; the submitted runs are deleted."""
    deployed.call("PATCH", "work_pools/wix", is_paused=True)
    submitted = []
    yield submitted
    for run_id in submitted:
        deployed.call("DELETE", f"flow_runs/{run_id}")
    deployed.call("PATCH", "work_pools/wix", is_paused=False)


@pytest.mark.parametrize("ui", UIS)
def test_every_form_is_submitted_as_it_opens(deployed, browser, paused_pool, ui):
    """Its pickers show the blocks; it creates a run, or names the field that has no default."""
    page = browser.new_page(viewport={"width": 1300, "height": 2600})
    for one in DEPLOYMENTS:
        found = deployed.deployment(one.full_name)
        page.goto(f"{deployed.url}{UIS[ui]}/deployments/deployment/{found['id']}/run")
        for slugs in one.blocks.values():
            name = slugs[0].partition("/")[2]
            picker = page.get_by_role("button").filter(has_text=re.compile(rf"^\s*{name}\s*$"))
            expect(picker.first).to_be_visible()
        if needed := NEEDED.get(one.full_name):
            page.get_by_role("button", name="Submit").click()
            expect(page.get_by_text(f"'{needed}' is a required property").first).to_be_visible()
        else:
            paused_pool.append(submit(page))


def test_a_listing_is_started_from_the_form_of_the_new_ui(deployed, browser, paused_pool):
    """Another period is selected in the query that the form opens with."""
    found = deployed.deployment("list-sessions/ad-hoc-list")
    page = browser.new_page(viewport={"width": 1300, "height": 2600})
    page.goto(f"{deployed.url}/v2/deployments/deployment/{found['id']}/run")
    page.get_by_role("button").filter(has_text="LAST_7_DAYS").click()
    page.get_by_role("option", name="TODAY", exact=True).click()
    paused_pool.append(submit(page))
    used = deployed.run(paused_pool[0])["parameters"]
    assert (used["query"]["period"], used["query"]["device_type"]) == ("TODAY", "ALL")


def field_of(page, title):
    """The field of the form with a title."""
    label = page.locator(".schema-form-property__label")
    titled = label.get_by_text(re.compile(rf"^{re.escape(title)}( \(Optional\))?$"))
    return page.locator(".schema-form-property").filter(has=titled).last


def choose(page, title, kind, value):
    """Choose a value from the select of a field."""
    field = field_of(page, title)
    field.get_by_role("button", name=kind, exact=True).click()
    field.locator(".p-select-button__icon").click()
    page.get_by_role("option", name=value, exact=True).click()


def submit(page):
    """Submit the form and return the ID of the created run."""
    with page.expect_response(lambda one: "create_flow_run" in one.url) as response:
        page.get_by_role("button", name="Submit").click()
    return response.value.json()["id"]


def site_of(deployed):
    """The reference to the site's credentials, which the form's picker shows by ID."""
    found = deployed.call("GET", "block_types/slug/wix-credentials/block_documents/name/wix")
    return {"$ref": {"block_document_id": found["id"]}}


def complete(deployed, run_id):
    """Wait for the run and assert that it completed."""
    state = deployed.wait_for_end(run_id, seconds=120)
    assert state["type"] == "COMPLETED", state


def follow_link(deployed, page, run_id, sentence):
    """Open the link in the line of the run's log that contains the sentence."""

    def lines():
        logs = deployed.call("POST", "logs/filter", logs={"flow_run_id": {"any_": [run_id]}})
        texts = [log["message"] for log in logs]
        return [text for text in texts if sentence in text and " See " in text]

    # The last log lines of a run arrive after its final state.
    wait_until(lines, seconds=30, what="the line in the log")
    (line,) = lines()
    page.goto(line.partition(" See ")[2])


def show_artifact(deployed, page, run_id, key):
    """Open an artifact from the page of its run."""
    page.goto(f"{deployed.url}/runs/flow-run/{run_id}")
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    page.get_by_role("link", name=key).first.click()


def test_a_listing_is_started_from_the_form(deployed, form):
    """Period and device are selected; the run has them, and its artifact shows the result."""
    page = form("list-sessions/ad-hoc-list")
    choose(page, "Predefined period", "Period", "LAST_7_DAYS")
    choose(page, "Device type", "DeviceType", "MOBILE")
    run_id = submit(page)
    used = deployed.run(run_id)["parameters"]
    assert used["credentials"] == site_of(deployed)
    chosen = {name: value for name, value in used["query"].items() if value is not None}
    assert chosen == {"period": "LAST_7_DAYS", "device_type": "MOBILE"}
    complete(deployed, run_id)
    show_artifact(deployed, page, run_id, "wix-sessions-listing")
    expect(page.get_by_role("table")).to_contain_text("LAST_7_DAYS (site zone), device MOBILE")


def test_a_listing_of_a_documented_body_is_started_from_the_form(deployed, form, paused_pool):
    """The body is entered as JSON, and replaces the query that the form opens with."""
    body = {"deviceType": {"type": "MOBILE"}, "predefinedTimePeriod": "LAST_30_DAYS"}
    page = form("list-sessions/ad-hoc-list")
    field = field_of(page, "wix_query")
    field.get_by_role("button", name="dict", exact=True).click()
    field.get_by_role("textbox").fill(json.dumps(body))
    paused_pool.append(submit(page))
    assert deployed.run(paused_pool[0])["parameters"]["wix_query"] == body


def test_a_load_is_started_from_the_form(deployed, form):
    """A number of days is entered, blocks stay references, and the log links to the table."""
    page = form("load-sessions/daily-load")
    days = field_of(page, "days")
    days.get_by_role("button", name="int", exact=True).click()
    days.get_by_role("spinbutton").fill("2")
    run_id = submit(page)
    used = deployed.run(run_id)["parameters"]
    assert (used["days"], used["refresh"], used["credentials"]) == (2, "stale", site_of(deployed))
    assert used["segments"] == [segment.key for segment in PROFILED]
    complete(deployed, run_id)
    follow_link(deployed, page, run_id, " partitions: ")
    expect(page.get_by_role("table")).to_contain_text("device_type=TABLET")


def test_the_form_shows_a_validation_error(deployed, form):
    """A number out of range creates no run; the form stays open and shows the error."""
    before = started(deployed, "list-sessions/ad-hoc-list")
    page = form("list-sessions/ad-hoc-list")
    field_of(page, "timeout_seconds").get_by_role("spinbutton").fill("0")
    page.get_by_role("button", name="Submit").click()
    expect(
        page.get_by_text(re.compile("minimum of 0|greater than|Validation", re.IGNORECASE)).first
    ).to_be_visible()
    assert started(deployed, "list-sessions/ad-hoc-list") == before
    assert page.url.endswith("/run")

"""The run forms, opened and submitted in a browser, and what the server refuses before a run.

On a real server with two workers; see `deployed`.
"""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.processes import wait_until

pytestmark = [
    pytest.mark.xdist_group("deployed"),
    # Prefect leaves sockets of its own to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SITE = {"$ref": {"block_document_slug": "wix-credentials/wix"}}
TODAY = {"period": "TODAY", "device_type": "ALL"}
WRONG = [
    ("list-sessions/ad-hoc", {"query": {**TODAY, "device_type": "FRIDGE"}}, "query.device_type"),
    ("list-sessions/ad-hoc", {"query": TODAY, "timeout_seconds": 0}, "timeout_seconds"),
    ("list-sessions/ad-hoc", {"query": TODAY, "output": "sessions.xlsx"}, "output"),
    ("list-sessions/ad-hoc", {"query": {"device_type": "ALL"}}, "query"),
    ("load-sessions/daily", {"segments": ["device=MOBILE"]}, "segments"),
    ("load-sessions/daily", {"days": "seven"}, "days"),
    ("load-sites/daily", {"sites": []}, "sites"),
    ("load-sites/daily", {"load": {"refresh": "always"}}, "load.refresh"),
    ("load-site/of-account", {"site_id": ""}, "site_id"),
    ("load-site/of-account", {}, "site_id"),
]


@pytest.mark.parametrize(("deployment", "wrong", "named"), WRONG)
def test_the_server_refuses_what_is_wrong(deployed, deployment, wrong, named):
    """No run is made of it, and the refusal names the place."""
    before = started(deployed, deployment)
    refused = deployed.submit(deployment, **wrong)
    assert (refused.status_code, named in refused.text) == (409, True), refused.text
    assert started(deployed, deployment) == before


def started(deployed, deployment):
    """The runs of a deployment's flow that no schedule started."""
    runs = deployed.runs(deployment.partition("/")[0])
    return {run["id"] for run in runs if not run["auto_scheduled"]}


@pytest.fixture
def form(deployed, browser):
    """Open the run form of a deployment."""

    def open_form(deployment):
        found = deployed.deployment(deployment)
        page = browser.new_page(viewport={"width": 1300, "height": 1800})
        page.goto(f"{deployed.url}/deployments/deployment/{found['id']}/run")
        page.get_by_role("heading", name="Parameters").wait_for()
        return page

    return open_form


def field_of(page, title):
    """One field of the form, by its title."""
    label = page.locator(".schema-form-property__label")
    titled = label.get_by_text(re.compile(rf"^{re.escape(title)}( \(Optional\))?$"))
    return page.locator(".schema-form-property").filter(has=titled).last


def choose(page, title, kind, value):
    """Choose from a field's list."""
    field = field_of(page, title)
    field.get_by_role("button", name=kind, exact=True).click()
    field.locator(".p-select-button__icon").click()
    page.get_by_role("option", name=value, exact=True).click()


def submit(page):
    """Submit the form; the id of the run that it made."""
    with page.expect_response(lambda reply: "create_flow_run" in reply.url) as made:
        page.get_by_role("button", name="Submit").click()
    return made.value.json()["id"]


def complete(deployed, run_id):
    """Wait for the run."""
    state = deployed.shield(run_id, seconds=120)
    assert state["type"] == "COMPLETED", state


def follow_link(deployed, page, run_id, sentence):
    """Open what a line of the run's log names."""

    def lines():
        logs = deployed.record("POST", "logs/filter", logs={"flow_run_id": {"any_": [run_id]}})
        return [log["message"] for log in logs if sentence in log["message"]]

    # A run's last lines arrive after its last state.
    wait_until(lines, seconds=30, what="the line in the log")
    (line,) = lines()
    page.goto(line.partition(" See ")[2])


def show_artifact(deployed, page, run_id, key):
    """Open one from the page of its run."""
    page.goto(f"{deployed.url}/runs/flow-run/{run_id}")
    page.get_by_role("tablist").get_by_text("Artifacts", exact=True).click()
    page.get_by_role("link", name=key).first.click()


def test_a_question_is_asked_from_the_form(deployed, form):
    """Period and device are chosen from lists; the run has them, and its answer is shown."""
    page = form("list-sessions/ad-hoc")
    choose(page, "Predefined period", "Period", "LAST_7_DAYS")
    choose(page, "Device type", "DeviceType", "MOBILE")
    run_id = submit(page)
    given = deployed.run(run_id)["parameters"]
    assert given["credentials"] == SITE
    chosen = {name: value for name, value in given["query"].items() if value is not None}
    assert chosen == {"period": "LAST_7_DAYS", "device_type": "MOBILE"}
    complete(deployed, run_id)
    show_artifact(deployed, page, run_id, "wix-sessions-listing")
    expect(page.get_by_role("table")).to_contain_text("LAST_7_DAYS (site zone), device MOBILE")


def test_a_load_is_started_from_the_form(deployed, form):
    """A number of days is typed, and the blocks stay references; the log leads to the table."""
    page = form("load-sessions/daily")
    days = field_of(page, "days")
    days.get_by_role("button", name="int", exact=True).click()
    days.get_by_role("spinbutton").fill("2")
    run_id = submit(page)
    given = deployed.run(run_id)["parameters"]
    assert (given["days"], given["refresh"], given["credentials"]) == (2, "stale", SITE)
    assert given["segments"] == [f"device_type={one}" for one in ("DESKTOP", "MOBILE", "TABLET")]
    complete(deployed, run_id)
    follow_link(deployed, page, run_id, " partitions: ")
    expect(page.get_by_role("table")).to_contain_text("device_type=TABLET")


def test_the_form_shows_what_is_refused(deployed, form):
    """A number that is out of range makes no run: the person stays at the form and is told."""
    before = started(deployed, "list-sessions/ad-hoc")
    page = form("list-sessions/ad-hoc")
    field_of(page, "timeout_seconds").get_by_role("spinbutton").fill("0")
    page.get_by_role("button", name="Submit").click()
    expect(
        page.get_by_text(re.compile("minimum of 0|greater than|Validation", re.IGNORECASE)).first
    ).to_be_visible()
    assert started(deployed, "list-sessions/ad-hoc") == before
    assert page.url.endswith("/run")

"""The pictures of the documentation: a form, a run, an artifact, a report and the demo.

`make pictures` writes them to docs/pictures; otherwise they are made in a temporary folder.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import expect

from prefect_wix.flows.load_sessions import RESULT_KEY
from prefect_wix.profiles.report import write_report
from prefect_wix.tasks.artifacts import CALENDAR_KEY
from tests.processes import ROOT
from tests.summaries import a_summary

PICTURES = "PICTURES" in os.environ
LOGO = ROOT / "docs" / "logo.png"  # the UI fetches it from the repository
BOTH = ("light", "dark")
SIZE = {"width": 1200, "height": 760}
TERMINAL = """<style>body {{ margin: 0; padding: 16px; width: 840px; font: 14px/1.4 monospace;
white-space: pre-wrap; color-scheme: light dark; background: light-dark(#fff, #1e1e1e);
color: light-dark(#222, #ddd) }}</style>$ prefect-wix demo
{}"""

pytestmark = [
    pytest.mark.xdist_group("deployed"),
    # Prefect leaves its sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def folder(tmp_path):
    """Where the pictures are written."""
    made = ROOT / "docs" / "pictures" if PICTURES else tmp_path / "pictures"
    made.mkdir(exist_ok=True)
    return made


@pytest.fixture
def take(browser, folder):
    """A function that writes the picture of a page, or those of a page that has two schemes."""

    def take_all(name, url, text, *, schemes=("",), full_page=False):
        for scheme in schemes:
            page = browser.new_page(viewport=SIZE, color_scheme=scheme or None)
            page.route("**/docs/logo.png", lambda route: route.fulfill(path=LOGO))
            page.goto(url)
            expect(page.get_by_text(text).first).to_be_visible()
            page.wait_for_timeout(500)  # the charts and panels have moved to their places
            path = folder / f"{name}{scheme and f'-{scheme}'}.png"
            page.screenshot(path=path, full_page=full_page)
            page.close()
            assert 5_000 < path.stat().st_size < 300_000, path.name

    return take_all


def test_the_pages_of_prefect_have_pictures(deployed, take):
    """The form of the daily load, its run, and two artifacts of the run."""
    run = deployed.start("load-sessions/daily-load", days=2)
    assert deployed.wait_for_end(run, seconds=120)["type"] == "COMPLETED"
    found = deployed.deployment("load-sessions/daily-load")
    form = f"{deployed.url}/deployments/deployment/{found['id']}/run"
    take("form", form, "lookback_days")
    take("run", f"{deployed.url}/runs/flow-run/{run}", "load partitions")
    for name, key in (("artifact", RESULT_KEY), ("calendar", CALENDAR_KEY)):
        (artifact, *_) = deployed.call(
            "POST",
            "artifacts/filter",
            artifacts={"key": {"any_": [key]}},
            flow_runs={"id": {"any_": [run]}},
        )
        take(name, f"{deployed.url}/artifacts/artifact/{artifact['id']}", "device_type=TABLET")


def test_the_report_has_a_picture(take, tmp_path):
    """Its first screen, from the summary of two weeks."""
    summary = a_summary()
    report = write_report(replace(summary, flows=summary.flows[:2]), tmp_path / "report.html")
    take("report", Path(report).as_uri(), "Conversion funnel", schemes=BOTH)


@pytest.mark.skipif(not PICTURES, reason="by `make pictures`; test_wheel runs the demo")
def test_the_demo_has_a_picture(take, tmp_path, environment):
    """The output of the demo in a terminal of 100 columns."""
    shown = subprocess.check_output(
        ["prefect-wix", "demo"],
        cwd=tmp_path,
        env=environment | {"COLUMNS": "100"},
        text=True,
        timeout=240,
    )
    shown = re.sub(r"\S+/python3?\b", "python", shown)  # the path of this environment
    page = tmp_path / "demo.html"
    page.write_text(TERMINAL.format(html.escape(shown)))
    take("demo", page.as_uri(), "prefect-wix demo", schemes=BOTH, full_page=True)

"""The benchmark without the other tools: its figures and its tables."""

from __future__ import annotations

import pytest

from benchmarks import report
from benchmarks.candidates import LISTING, LOAD
from benchmarks.floors import fewest_requests, shortest_makespan
from benchmarks.measures import QUICK, Bench, measure_jobs
from benchmarks.sandboxes import SandboxProcess, Scenario


def test_figures_come_from_the_log_of_the_sandbox(tmp_path):
    """Two jobs of a quarter second are measured, compared with their floors, and shown."""
    results = tmp_path / "results.jsonl"
    with SandboxProcess() as process:
        bench = Bench(process, QUICK, results)
        for candidate in (LISTING, LOAD):
            measure_jobs(bench, "even", candidate, Scenario(2, 50, (0.25, 0.25)), slots=1)
    observations = report.read(results)
    assert [one["candidate"] for one in observations] == [LISTING.name, LOAD.name]
    for figures in (one["figures"] for one in observations):
        assert figures["floor_requests"] == 2 <= figures["requests_per_job"]
        assert figures["floor_seconds"] == pytest.approx(0.5)
        assert figures["seconds"] > 0.5
        assert figures["rejected"] == 0 <= figures["delay_median"]
    facts = {"measure": "machine", "candidate": "facts", "figures": {"date": "today"}}
    page = report.replace_results(
        f"a{report.BEGIN}b{report.END}c", report.render([facts, *observations], "x.svg")
    )
    assert page.startswith(f"a{report.BEGIN}")
    assert page.endswith(f"{report.END}c")
    assert f"| {LOAD.name} |" in page


@pytest.mark.parametrize(("sessions", "requests"), [(0, 2), (1, 2), (1000, 2), (1001, 3)])
def test_the_poll_that_finds_a_job_finished_is_page_one(sessions, requests):
    """A job takes one submit and its pages; an empty job has one page."""
    assert fewest_requests(sessions) == requests


def test_the_floor_of_a_makespan_is_the_tightest_of_its_bounds():
    """The bounds are the slots, the longest job and the rate limit."""
    assert shortest_makespan([2.0] * 20, 4) == 10.0
    assert shortest_makespan([2.0, 9.0], 2) == 9.0
    assert shortest_makespan([2.0], 1, requests=1000, requests_per_minute=200) == 240.0

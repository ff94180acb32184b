"""The tables of the benchmark."""

from __future__ import annotations

from benchmarks.report import render

FACTS = {"measure": "machine", "candidate": "facts", "figures": {"date": "today"}}


def big_day(candidate, size, seconds):
    figures = {"size": size, "seconds": seconds, "cpu_seconds": 1.0, "peak_mib": 50.0}
    return {"measure": "ids", "candidate": candidate, "figures": figures}


def test_a_table_leaves_out_candidates_that_were_not_measured_at_its_size():
    """Fewer candidates load the biggest day."""
    tables = render(
        [
            FACTS,
            big_day("plain httpx, 1 in flight", 10, 1.0),
            big_day("prefect-wix into DuckDB", 10, 2.0),
            big_day("prefect-wix into PostgreSQL", 10, 3.0),
            big_day("plain httpx, 1 in flight", 20, 2.0),
            big_day("prefect-wix into DuckDB", 20, 5.0),
        ],
        "plot.svg",
    )
    small, big = tables.split("### One day of ")[1:]
    assert "| prefect-wix into PostgreSQL | 3.0 s | 3.00 |" in small
    assert "PostgreSQL" not in big
    assert "| prefect-wix into DuckDB | 5.0 s | 2.50 |" in big


def small_jobs(candidate, seconds, cpu_seconds):
    figures = {"seconds": seconds, "cpu_seconds": cpu_seconds, "jobs": 1000, "requests_per_job": 2}
    return {"measure": "small", "candidate": candidate, "figures": figures}


def test_overhead_is_the_time_beyond_the_plain_script_in_the_same_round():
    """A machine that is slow for a while slows both."""
    tables = render(
        [
            FACTS,
            small_jobs("plain httpx", 4.0, 3.0),
            small_jobs("prefect-wix", 9.0, 6.0),
            small_jobs("plain httpx", 8.0, 6.0),
            small_jobs("prefect-wix", 12.0, 10.0),
            small_jobs("plain httpx", 4.0, 3.0),
            small_jobs("prefect-wix", 10.0, 7.0),
        ],
        "plot.svg",
    )
    row = (
        "| prefect-wix | 10.0 s (9.0 to 12.0) | 2.00 | 5.0 ms (4.0 to 6.0) | 4.0 ms (3.0 to 4.0) |"
    )
    assert row in tables

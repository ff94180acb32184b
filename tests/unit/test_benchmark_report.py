"""Figures as tables."""

from __future__ import annotations

from benchmarks.report import render

FACTS = {"measure": "machine", "who": "facts", "figures": {"date": "today"}}


def landed(who, size, seconds):
    figures = {"size": size, "seconds": seconds, "cpu_seconds": 1.0, "peak_mib": 50.0}
    return {"measure": "ids", "who": who, "figures": figures}


def test_who_sits_a_size_out_is_left_out_of_its_table():
    """The biggest day is fetched and landed by fewer."""
    told = render(
        [
            FACTS,
            landed("plain httpx, 1 in flight", 10, 1.0),
            landed("prefect-wix into DuckDB", 10, 2.0),
            landed("prefect-wix into PostgreSQL", 10, 3.0),
            landed("plain httpx, 1 in flight", 20, 2.0),
            landed("prefect-wix into DuckDB", 20, 5.0),
        ],
        "plot.svg",
    )
    small, big = told.split("### One day of ")[1:]
    assert "| prefect-wix into PostgreSQL | 3.0 s | 3.00 |" in small
    assert "PostgreSQL" not in big
    assert "| prefect-wix into DuckDB | 5.0 s | 2.50 |" in big


def test_overhead_is_what_a_round_takes_beyond_the_bare_fetch_of_that_round():
    """A machine that is slow for a while is slow for both."""
    figures = {"jobs": 1000, "requests_per_job": 2.0}
    told = render(
        [FACTS]
        + [
            {"measure": "small", "who": who, "figures": {**figures, "seconds": s, "cpu_seconds": c}}
            for who, s, c in [
                ("plain httpx", 4.0, 3.0),
                ("prefect-wix", 9.0, 6.0),
                ("plain httpx", 8.0, 6.0),
                ("prefect-wix", 12.0, 10.0),
                ("plain httpx", 4.0, 3.0),
                ("prefect-wix", 10.0, 7.0),
            ]
        ],
        "plot.svg",
    )
    row = (
        "| prefect-wix | 10.0 s (9.0 to 12.0) | 2.00 | 5.0 ms (4.0 to 6.0) | 4.0 ms (3.0 to 4.0) |"
    )
    assert row in told

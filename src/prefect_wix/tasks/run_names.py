"""The names of runs: a verb and what the run works on.

Every name comes from a callable: Prefect formats a string with the run's parameters, so that
foreign text in it could expose a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import prefect.runtime


def run_name(verb: str, parameter: str = "") -> Any:
    """A callable that names a task run by a verb, and the value of one parameter or its length."""

    def name(parameters: Mapping[str, Any]) -> str:
        value = parameters[parameter] if parameter else ""
        return f"{verb} {len(value) if isinstance(value, list) else value}".strip()

    return name


def flow_run_name(verb: str) -> Callable[[], str]:
    """A callable that names a flow run by a verb, the days that it works on, and its site."""

    def name() -> str:
        run = prefect.runtime.flow_run.parameters
        days = f"{days_of(run)} of " if "days" in run else ""
        return f"{verb} {days}{run.get('site_id') or run['credentials'].site_id}"

    return name


def days_of(parameters: Mapping[str, Any]) -> str:
    """The days of a load or a profile: its two dates, or their number."""
    start, end, days = (parameters[name] for name in ("start_date", "end_date", "days"))
    return f"{start} to {end}" if start else f"{days} day{'s' * (days != 1)}"


def sites_run_name(load: Mapping[str, Any], sites: Sequence[str] | None) -> str:
    """The name of a run that loads sites, by their IDs, or all sites of an account."""
    subject = "all sites"
    if sites is not None:
        subject = sites[0] if len(sites) == 1 else f"{len(sites):,} sites"
    return f"load {days_of(load)} of {subject}"

"""The names of runs.

Every name comes from a callable: Prefect formats a string with the run's parameters, so that
foreign text in it could expose a secret.
"""

from __future__ import annotations

from typing import Any

from prefect_wix.client.models import Site


def run_name(verb: str, parameter: str) -> Any:
    """A callable that names a task run by a verb and the value of one parameter."""
    return lambda parameters: f"{verb} {parameters[parameter]}"


def site_run_name(site: Site) -> str:
    """The name of the run that loads a site."""
    return f"load {site.name or site.id}"

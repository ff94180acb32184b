"""What every test may ask for: a shop on the sandbox, and credentials for it."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

# Before Prefect is imported anywhere: no telemetry, and no server but the ones tests start.
os.environ.pop("PREFECT_API_URL", None)
os.environ.update(
    DO_NOT_TRACK="1", PREFECT_SERVER_ANALYTICS_ENABLED="false", PREFECT_LOGGING_TO_API_ENABLED="true"
)

from prefect_wix.sandbox import World, running

NOW = datetime(2024, 3, 15, 10, 0, tzinfo=UTC)
"""The sandbox's today; a Friday at noon in the shop's zone, Asia/Jerusalem."""


@pytest.fixture
def shop():
    """A running sandbox: 40 days of a shop in Asia/Jerusalem, no rate limit, jobs done at once."""
    with running(make_world(), now=NOW) as sandbox:
        yield sandbox


def make_world(sessions=2_000):
    """The shop's sessions, the same for every test."""
    return World.generate(sessions=sessions, days=40, end=NOW.date(), timezone="Asia/Jerusalem")

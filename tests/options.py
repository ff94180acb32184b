"""How the suite runs, from the environment.

SOAK=1 repeats tests with many more seeds, rounds and sites (`make soak`). ALL_TOOLS=1 fails a test
whose tool is missing (`.ci/run`); otherwise the test is skipped.
"""

from __future__ import annotations

import os

import pytest

SOAK = "SOAK" in os.environ
ALL_TOOLS = "ALL_TOOLS" in os.environ


def repeated(default, soak):
    """The default number of seeds, rounds or sites, or the one for `make soak`."""
    return soak if SOAK else default


def skip_without(tool):
    """Skip a test whose tool is missing, or fail it if all tools are required."""
    (pytest.fail if ALL_TOOLS else pytest.skip)(f"{tool} is missing")

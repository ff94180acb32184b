"""Preconditions of the test suite."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("one process")
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="pytest-xdist is not in use")
def test_tests_of_a_group_stay_in_one_process(request):
    """The tests of a group share a server, which every process would start again."""
    assert request.node.nodeid.endswith("@one process")

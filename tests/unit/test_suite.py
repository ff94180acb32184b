"""What the tests themselves rely on."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("kept together")
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="there is one process")
def test_tests_of_a_group_stay_in_one_process(request):
    """Else each process would start the servers that a group is to share."""
    assert request.node.nodeid.endswith("@kept together")

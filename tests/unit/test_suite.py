"""Preconditions of the test suite."""

from __future__ import annotations

import os
import re

import pytest

from tests.processes import ROOT


@pytest.mark.xdist_group("one process")
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="pytest-xdist is not in use")
def test_tests_of_a_group_stay_in_one_process(request):
    """The tests of a group share a server, which every process would start again."""
    assert request.node.nodeid.endswith("@one process")


def test_every_test_that_the_docs_name_exists():
    """docs/reliability.md names the test that holds each promise."""
    text = (ROOT / "docs" / "reliability.md").read_text()
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    file = None
    for named, test in re.findall(r"`(test_\w+\.py)?(?:::(\w+))?`", text):
        file = named or file
        if named or test:
            assert file in files
            assert not test or f"def {test}(" in files[file], test

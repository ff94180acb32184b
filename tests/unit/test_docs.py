"""The reference pages name what the code has, and no more; the README's links lead somewhere."""

from __future__ import annotations

import re

import duckdb
import pytest

from prefect_wix import tasks
from prefect_wix.blocks.documents import DOCUMENTS
from prefect_wix.deployments.definitions import DEPLOYMENTS
from prefect_wix.profiles import schema as profiles
from prefect_wix.tasks import events
from prefect_wix.warehouse.schema import SESSIONS, Schema, drive
from tests.processes import ROOT

REFERENCE = ROOT / "docs" / "reference"
IN_DUCKDB = {"": "VARCHAR", "TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE", "DOUBLE PRECISION": "DOUBLE"}


def rows_of(text):
    """The first two cells of each row of the tables in a text."""
    return re.findall(r"^\| `(\w+)` \| (.*?) ?\|", text, re.MULTILINE)


def test_the_reference_has_every_table_view_and_column():
    """In the order and with the types that an empty DuckDB database has after a first run."""
    pages = re.split(r"^## (\w+)$", (REFERENCE / "tables.md").read_text(), flags=re.MULTILINE)
    documented = {
        name: [(column, IN_DUCKDB.get(kind, kind)) for column, kind in rows_of(text)]
        for name, text in zip(pages[1::2], pages[2::2], strict=True)
    }
    found = {}
    with duckdb.connect() as connection:
        for tables in (SESSIONS, profiles._PROFILES):
            drive(
                Schema("main").prepare(tables),
                lambda one: connection.execute(one.sql, one.values).fetchall(),
            )
        for table, *column in connection.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_name NOT LIKE '%_schema' ORDER BY table_name, ordinal_position"
        ).fetchall():
            found.setdefault(table, []).append(tuple(column))
    assert documented == found


def test_the_reference_has_every_setting():
    """A row per variable and block that `prefect-wix setup` reads."""
    text = (REFERENCE / "settings.md").read_text()
    variables = {name for name, _ in rows_of(text)}
    assert variables == {name for one in DOCUMENTS for name in one.variables.values()}
    for document in DOCUMENTS:
        assert document.slug in text


def test_the_reference_has_every_event():
    """Each has a row with all values that the docstring of its function names."""
    text = (REFERENCE / "events.md").read_text()
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*)$", text, re.MULTILINE))
    emitted = {
        events.LANDED_EVENT: events.emit_landed,
        events.PROFILED_EVENT: events.emit_profiled,
    }
    assert rows.keys() == emitted.keys()
    for event, function in emitted.items():
        values = re.findall(r"``(\w+)``", function.__doc__.partition("payload")[2])
        assert {*re.findall(r"`(\w+)`", rows[event])} == {*values}


@pytest.mark.parametrize(
    ("page", "public"),
    [("flows.md", [one.flow.__name__ for one in DEPLOYMENTS]), ("tasks.md", tasks.__all__)],
)
def test_the_reference_has_every_flow_and_task(page, public):
    """Each public name has an entry, and no other name."""
    names = re.findall(r"^::: [\w.]+\.(\w+)$", (REFERENCE / page).read_text(), re.MULTILINE)
    assert sorted(names) == sorted({*public})


def test_the_links_between_pages_lead_to_files():
    """In the repository; `make docs` checks them in the site."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            # `make docs` writes the commands.
            assert (page.parent / link).exists() or link.endswith("commands.md"), f"{page}: {link}"

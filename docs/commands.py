"""Print the reference of the command `prefect-wix` in Markdown."""

from __future__ import annotations

from prefect_wix.cli.app import app

page = app.generate_docs().replace("# prefect-wix\n", "# Commands\n", 1)
before, _, rest = page.partition("## Table of Contents\n")  # the site has its own
print(before + rest[rest.index("**Commands**") :])  # noqa: T201

"""A profile summary as one HTML file that needs no network, in light and dark, at any width.

The page is in ``report.html.jinja``, the charts are in `charts`.
"""

from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path

from prefect_wix.errors import import_extra
from prefect_wix.planning.windows import ONE_DAY
from prefect_wix.profiles import charts, tables
from prefect_wix.profiles.expressions import Kind
from prefect_wix.profiles.summary import ProfileSummary
from prefect_wix.spool.files import check_output_file, replaced_file

ROWS_SHOWN = 200
"""Most broken relations that the report lists."""
_IRREGULAR: dict[str, str] = {
    Kind.TWO_DEVICES: "Listed under more than one device",
    Kind.OUTSIDE_ALL: "Listed in a segment, but not among all sessions",
    Kind.BROKEN_FUNNEL: "Reached a step without an earlier step",
    Kind.NO_DEVICE: "Listed under no device",
    Kind.ON_TWO_DAYS: "Listed on two consecutive days (visit over midnight)",
}


def check_report(path: Path) -> Path:
    """Check that a report can be written, before anything is computed for it.

    Returns:
        The path, with the home folder in the place of ``~``.

    Raises:
        OutputError: the file can't be written.
        MissingExtraError: the ``report`` extra is not installed.
    """
    import_extra("jinja2", extra="report", what_for="A report")
    import_extra("plotly", extra="report", what_for="A report")
    return check_output_file(path, "report")


def write_report(summary: ProfileSummary, path: Path, site_name: str = "") -> Path:
    """Write the report, replacing an existing file atomically.

    Args:
        summary: the profiles of one site and window.
        path: the file; missing folders are created.
        site_name: what the owner calls the site; empty if it is not known.

    Returns:
        The absolute path.

    Raises:
        OutputError: the file can't be written; an existing file is unchanged.
        MissingExtraError: the ``report`` extra is not installed.
    """
    path = check_report(path)
    with replaced_file(path, "report") as draft:
        draft.write_text(_render(summary, site_name), encoding="utf-8")
    return path.absolute()


def _render(summary: ProfileSummary, site_name: str) -> str:
    jinja2 = import_extra("jinja2", extra="report", what_for="A report")
    # IDs and names are untrusted text, so every value is escaped.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"count": "{:,}".format, "day": "{:%-d %b %Y}".format}
    source = resources.files(__package__).joinpath("report.html.jinja").read_text("utf-8")
    html: str = environment.from_string(source).render(
        summary=summary,
        site_name=site_name,
        last_day=summary.window.end - ONE_DAY,
        irregular=_IRREGULAR,
        missing=Counter(name for row in summary.certificate for name in row.missing),
        shown=ROWS_SHOWN,
        tables=tables,
        charts=charts,
    )
    return html

"""The report as a file: what it says, and that it is safe to open. Its looks: tests/e2e."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from test_imports import PACKAGE, REFUSE

from prefect_wix.errors import OutputError
from prefect_wix.profiles.report import check_report, write_report
from tests.summaries import EVIL, a_summary, an_empty_summary


class Page(HTMLParser):
    """The texts of a page and the names of its elements, as a browser takes them in."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.addresses = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data):
        if self.elements[-1:] not in (["script"], ["style"]):
            self.texts.append(data)


def page_of(summary, path):
    return Page(write_report(summary, path).read_text())


def test_the_report_says_the_numbers(tmp_path):
    """Counts, shares, the verdict, what is broken and where, what is missing: all in words."""
    path = write_report(a_summary(), tmp_path / "new" / "folder" / "report.html")
    assert path == tmp_path / "new" / "folder" / "report.html"
    text = " ".join(" ".join(Page(path.read_text()).texts).split())
    for said in (
        "Sessions, 1 Mar to 14 Mar 2024",
        "Site a-shop · local days in Asia/Jerusalem · computed 15 Mar 2024, 10:04 UTC",
        "Added to cart 2,450 17.5% 31.8%",
        "1 of 28 tests found ids that contradict a relation",
        "1 broken 13 held",
        "4 Mar 2024 DESKTOP + MOBILE + TABLET = ALL 3 8f14e45f-ceea-467f-9d3c-1a2b3c4d5e6f",
        "conversion_funnel=+VIEWED_PRODUCT-ADDED_TO_CART 14",
        "home_then_left 2,310 16.5% 14",
        "Listed under more than one device 40 0.3%",
        "2 Mar 2024 1,000 1,051 0.952 +0.000",
    ):
        assert said in text


def test_texts_from_data_are_texts(tmp_path):
    """A session or a flow named like a script is shown, and is no script."""
    page = page_of(a_summary(), tmp_path / "report.html")
    assert sum(EVIL in text for text in page.texts) == 2
    clean = page_of(an_empty_summary(), tmp_path / "empty.html")
    # Plotly's script, and one for each of the three pictures.
    assert (page.elements.count("script"), clean.elements.count("script")) == (4, 1)
    assert "b" not in page.elements


def test_the_file_asks_for_nothing_else(tmp_path):
    """No element names an address but the icon that stands in for one."""
    page = page_of(a_summary(), tmp_path / "report.html")
    assert page.addresses == ["data:,"]


def test_days_of_which_nothing_is_landed_make_a_report_too(tmp_path):
    """Each section says what is not there and why."""
    text = " ".join(" ".join(page_of(an_empty_summary(), tmp_path / "report.html").texts).split())
    for said in (
        "Sessions, 1 Mar 2024",
        "No funnel step is landed",
        "No session is landed",
        "Nothing could be tested",
        "Wix told no counts",
        "No navigation flow is landed",
    ):
        assert said in text


def test_a_year_of_days_is_no_larger_than_need_be(tmp_path):
    """What grows with the days is small beside the script that draws."""
    short = write_report(a_summary(1), tmp_path / "day.html").stat().st_size
    long = write_report(a_summary(365), tmp_path / "year.html").stat().st_size
    assert long - short < 500_000


def test_a_report_that_cannot_be_written_says_so_and_leaves_no_draft(tmp_path):
    """A folder in its place, or a name that no disk takes: one sentence with the path."""
    path = tmp_path / "report.html"
    path.mkdir()
    with pytest.raises(OutputError, match="is a folder; name an"):
        write_report(a_summary(), path)
    with pytest.raises(OutputError, match="can't be written"):
        write_report(a_summary(), tmp_path / ("n" * 300))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_a_missing_extra_is_one_sentence(package, tmp_path):
    """Without what draws it, the module loads, and asking says what to install."""
    code = REFUSE.format(refused={package}) + (
        "from pathlib import Path\n"
        "from prefect_wix.profiles.report import check_report\n"
        f"check_report(Path({str(tmp_path)!r}) / 'report.html')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""},
    )
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(
        rf"needs the package {package}. Run: pip install 'prefect-wix\[report\]'", last
    )
    check_report(tmp_path / "report.html")

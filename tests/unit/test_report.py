"""The text and the safety of the HTML report. Its rendering is tested in tests/e2e."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from prefect_wix.errors import OutputError
from prefect_wix.profiles.report import check_report, write_report
from tests.summaries import EVIL, a_summary, an_empty_summary


class Page(HTMLParser):
    """The texts, element names and addresses of a page."""

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


def test_the_report_contains_the_numbers(tmp_path):
    """It has counts, shares, the verdict, the broken relations and the missing segments."""
    path = write_report(a_summary(), tmp_path / "new" / "folder" / "report.html", "Shop 1")
    assert path == tmp_path / "new" / "folder" / "report.html"
    text = " ".join(" ".join(Page(path.read_text()).texts).split())
    for expected in (
        "Sessions, 1 Mar to 14 Mar 2024",
        "Site Shop 1 (a-shop) · local days in Asia/Jerusalem · computed 15 Mar 2024, 10:04 UTC",
        "Sessions a day 1,000 On mobile 54.4% Days landed 14 of 14 Viewed product 55.0%",
        "Added to cart 2,450 17.5% 31.8%",
        "device_type=MOBILE 13 of 14 days",
        "1 of 28 tests found IDs that contradict a relation",
        "1 broken 13 held",
        "4 Mar 2024 DESKTOP + MOBILE + TABLET = ALL 3 8f14e45f-ceea-467f-9d3c-1a2b3c4d5e6f",
        "conversion_funnel=+VIEWED_PRODUCT-ADDED_TO_CART 14",
        "home_then_left 2,310 16.5% 14",
        "Listed under more than one device 40 0.3%",
        "2 Mar 2024 1,000 1,051 0.952 +0.000",
    ):
        assert expected in text


def test_the_calendar_shows_each_missing_day(tmp_path):
    """A square a day and segment; a missing one has its date as a title."""
    html = write_report(a_summary(), tmp_path / "report.html").read_text()
    squares = re.findall('<i [^>]*title="([^"]*)"', html)
    assert len(squares) == 14 * 4
    missing = [title for title in squares if title.endswith(": missing")]
    assert (missing[0], len(missing)) == ("2024-03-04: missing", 1 + 13)
    assert "2024-03-01: 380" in squares


def test_values_are_escaped(tmp_path):
    """A session ID or a flow name that contains a script is shown as text."""
    page = Page(write_report(a_summary(), tmp_path / "report.html", EVIL).read_text())
    # In the title, the header, a flow and an example.
    assert sum(EVIL in text for text in page.texts) == 4
    clean = page_of(an_empty_summary(), tmp_path / "empty.html")
    # Plotly's script, and one for each of the three charts.
    assert (page.elements.count("script"), clean.elements.count("script")) == (4, 1)
    assert "b" not in page.elements


def test_the_report_loads_no_other_file(tmp_path):
    """The only address is the empty icon."""
    page = page_of(a_summary(), tmp_path / "report.html")
    assert page.addresses == ["data:,"]


def test_a_report_without_landed_days_can_be_written(tmp_path):
    """Each section names what is missing."""
    text = " ".join(" ".join(page_of(an_empty_summary(), tmp_path / "report.html").texts).split())
    for expected in (
        "Sessions, 1 Mar 2024",
        "Site a-shop · local days",
        "Days landed 0 of 1",
        "No day is landed",
        "No funnel step is landed",
        "No session is landed",
        "Nothing could be tested",
        "No count of Wix is stored",
        "No navigation flow is landed",
    ):
        assert expected in text


def test_a_year_adds_less_than_half_a_megabyte(tmp_path):
    """The size that depends on the number of days is small compared to Plotly's script."""
    short = write_report(a_summary(1), tmp_path / "day.html").stat().st_size
    long = write_report(a_summary(365), tmp_path / "year.html").stat().st_size
    assert long - short < 500_000


def test_a_report_that_cannot_be_written_raises_and_leaves_no_draft(tmp_path):
    """The path is a folder, or its name is too long."""
    path = tmp_path / "report.html"
    path.mkdir()
    with pytest.raises(OutputError, match="is a folder; name a file"):
        write_report(a_summary(), path)
    with pytest.raises(OutputError, match="can't be written"):
        write_report(a_summary(), tmp_path / ("n" * 300))
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_goes_where_its_path_says(tmp_path, monkeypatch):
    """A tilde is the home folder; a URL and a pipe are refused; the mode of a file stays."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_report(a_summary(), Path("~/report.html"))
    assert path == tmp_path / "report.html"
    path.chmod(0o640)
    write_report(a_summary(), path)
    assert path.stat().st_mode & 0o777 == 0o640
    pipe = tmp_path / "pipe.html"
    os.mkfifo(pipe)
    for refused in (Path("s3://bucket/report.html"), pipe):
        with pytest.raises(OutputError, match=r"report.* is (a URL|a link)"):
            check_report(refused)
        with pytest.raises(OutputError, match=r"report.* is (a URL|a link)"):
            write_report(a_summary(), refused)
    assert pipe.is_fifo()

"""The HTML report in a browser: light and dark, on a desktop and on a phone."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from prefect_wix.profiles.report import write_report
from tests.summaries import EVIL, a_summary, an_empty_summary

LOOKS = {
    "light": {"viewport": {"width": 1100, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1100, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
    "dark phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}
HEADINGS = [
    "Conversion funnel",
    "Devices by day",
    "Calendar",
    "Completeness certificate",
    "Landed sessions and Wix's count",
    "Navigation flows",
    "Irregular sessions",
]
LUMINANCE = """colour => {
    const part = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map(Number).map(part);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}"""


class PageLog:
    """The URLs that a page requested, and its console messages, errors and dialogs."""

    def __init__(self, page):
        self.requests, self.messages = [], []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("dialog", lambda dialog: self.messages.append(dialog.message))


def contrast(page, text, background):
    """The contrast ratio of a text and its background, as defined by WCAG 2."""
    colours = (
        page.locator(text).first.evaluate(
            "e => e instanceof SVGElement ? getComputedStyle(e).fill : getComputedStyle(e).color"
        ),
        page.locator(background).first.evaluate("e => getComputedStyle(e).backgroundColor"),
    )
    lower, upper = sorted(page.evaluate(LUMINANCE, colour) for colour in colours)
    return (upper + 0.05) / (lower + 0.05)


@pytest.mark.parametrize("look", LOOKS)
def test_the_report_is_readable(browser, tmp_path, look):
    """It shows every heading, chart and number, without overflow, requests or errors."""
    path = write_report(a_summary(), tmp_path / "report.html")
    page = browser.new_page(**LOOKS[look])
    log = PageLog(page)
    page.goto(path.as_uri())
    for heading in HEADINGS:
        expect(page.get_by_role("heading", name=heading)).to_be_visible()
    for chart in ("funnel", "devices", "reconciliation"):
        expect(page.locator(f"#chart-{chart} .main-svg").first).to_be_visible()
    expect(page.locator("#chart-funnel").get_by_text("2,450 · 17.5%")).to_be_visible()
    expect(page.locator("#chart-devices").get_by_text("Unknown")).to_be_visible()
    expect(page.locator(".figures")).to_contain_text("14,000")
    expect(page.locator("#certificate .state.broken")).to_have_text("1 broken")
    expect(page.locator("#certificate").get_by_text(EVIL)).to_be_visible()
    expect(page.locator("#flows").get_by_text(EVIL)).to_be_visible()
    page.screenshot(path=tmp_path / f"{look}.png", full_page=True)
    wide, width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= width
    assert page.locator("#chart-funnel svg").first.bounding_box()["width"] <= width
    for text, background in (
        ("h1", "body"),
        ("section > p", "section"),
        (".state.held", ".state.held"),
        (".state.broken", ".state.broken"),
        ("#chart-devices .xtick text", "section"),
    ):
        assert contrast(page, text, background) >= 4.5, text
    assert log.requests == [path.as_uri()]
    assert log.messages == []
    page.close()


def test_hovering_a_day_shows_its_sessions(browser, tmp_path):
    """The label of a bar has its share and its number of sessions."""
    path = write_report(a_summary(), tmp_path / "report.html")
    page = browser.new_page(**LOOKS["light"])
    page.goto(path.as_uri())
    chart = page.locator("#chart-devices")
    chart.scroll_into_view_if_needed()
    expect(chart.locator(".main-svg").first).to_be_visible()
    chart.hover(position={"x": 400, "y": 150})
    expect(chart.get_by_text("54.4 % · 544 sessions")).to_be_visible()
    page.close()


def test_an_empty_report_is_readable(browser, tmp_path):
    """Without landed days the report names what is missing, without errors."""
    path = write_report(an_empty_summary(), tmp_path / "report.html")
    page = browser.new_page(**LOOKS["phone"])
    log = PageLog(page)
    page.goto(path.as_uri())
    expect(page.get_by_text("No funnel step is landed")).to_be_visible()
    assert log.messages == []
    page.close()

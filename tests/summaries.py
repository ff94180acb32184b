"""Profile summaries for the tests of the report: one with sessions, and one without."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from prefect_wix.planning.windows import Window
from prefect_wix.profiles.summary import (
    NO_DEVICE,
    CertificateRow,
    DeviceDay,
    FlowCount,
    ProfileSummary,
    ReconciliationRow,
    RelationState,
)

START = date(2024, 3, 1)
EVIL = "<script>alert('x')</script><b>bold</b>"
"""Markup in the name of a session or a flow; a page must show it as text."""
STEPS = {
    "SITE_SESSIONS": 14_000,
    "VIEWED_PRODUCT": 7_700,
    "ADDED_TO_CART": 2_450,
    "REACHED_CHECKOUT": 1_150,
    "SESSIONS_CONVERTED": 441,
}
DEVICES = {"DESKTOP": 380, "MOBILE": 544, "TABLET": 70, NO_DEVICE: 6}
ALL = ("devices_make_all", "DESKTOP + MOBILE + TABLET = ALL")
NESTED = ("converted_within_checkout", "SESSIONS_CONVERTED within REACHED_CHECKOUT")
LESS = ("less", "VIEWED_PRODUCT less ADDED_TO_CART = +VIEWED_PRODUCT-ADDED_TO_CART")


def a_summary(days=14):
    """1,000 sessions a day, one broken relation (4 March) and one that is not testable."""
    dates = [START + timedelta(days=n) for n in range(days)]
    return ProfileSummary(
        site_id="a-shop",
        window=Window(START, START + timedelta(days=days), "Asia/Jerusalem"),
        computed_at=datetime(2024, 3, 15, 10, 4, tzinfo=UTC),
        sessions=1_000 * days,
        funnel=STEPS,
        devices=tuple(
            DeviceDay(day, device, count) for day in dates for device, count in DEVICES.items()
        ),
        flows=(
            FlowCount("home_then_left", 2_310, days),
            FlowCount("navigation_flow=/{Homepage}>/a-page-of-a-rather-long-name>__DROP__", 81, 3),
            FlowCount(EVIL, 7, 1),
        ),
        kinds={"regular": 1_000 * days - 40, "two_devices": 40},
        calendar={
            "conversion_funnel=+VIEWED_PRODUCT": dict.fromkeys(dates, 550),
            "device_type=DESKTOP": {day: 300 + 80 * (day.day % 7 < 5) for day in dates},
            "device_type=MOBILE": {day: 544 for day in dates if day != date(2024, 3, 4)},
            "navigation_flow=/{Homepage}>/a-page-of-a-rather-long-name>__DROP__": {START: 81},
        },
        certificate=tuple(row for day in dates for row in _certificate(day)),
        reconciliation=tuple(
            ReconciliationRow(day, 1_000, 1_051, 0.9515, None if day == START else 0.0)
            for day in dates
        ),
    )


def _certificate(day):
    if day == date(2024, 3, 4):
        examples = ("8f14e45f-ceea-467f-9d3c-1a2b3c4d5e6f", EVIL)
        yield CertificateRow(day, *ALL, RelationState.BROKEN, 1_003, 3, examples)
    else:
        yield CertificateRow(day, *ALL, RelationState.HELD, 1_000, 0)
    yield CertificateRow(day, *NESTED, RelationState.HELD, 1_150, 0)
    missing = ("conversion_funnel=+VIEWED_PRODUCT-ADDED_TO_CART",)
    yield CertificateRow(day, *LESS, RelationState.NOT_TESTABLE, 0, 0, missing=missing)


def an_empty_summary():
    """A day without loaded sessions."""
    return ProfileSummary(
        site_id="a-shop",
        window=Window(START, START + timedelta(days=1), "Asia/Jerusalem"),
        computed_at=datetime(2024, 3, 15, 10, 4, tzinfo=UTC),
        sessions=0,
        funnel={},
        devices=(),
        flows=(),
        kinds={},
        calendar={},
        certificate=(),
        reconciliation=(),
    )

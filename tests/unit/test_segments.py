"""Each session filter has one permanent key, and a key parses to its filter."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefect_wix.client.models import DeviceType, FunnelStep
from prefect_wix.planning.segments import DEVICES, Segment
from prefect_wix.planning.windows import Window

WINDOW = Window(date(2024, 1, 1), date(2024, 1, 2), "Asia/Jerusalem")

# Keys that warehouses store: changing one makes its partitions unreadable.
GOLDEN = {
    "device_type=DESKTOP": {"device_type": "DESKTOP"},
    "device_type=MOBILE": {"device_type": "MOBILE"},
    "device_type=TABLET": {"device_type": "TABLET"},
    "device_type=ALL": {"device_type": "ALL"},
    "conversion_funnel=+SITE_SESSIONS": {"funnel_include": "SITE_SESSIONS"},
    "conversion_funnel=-SESSIONS_CONVERTED": {"funnel_exclude": "SESSIONS_CONVERTED"},
    "conversion_funnel=+VIEWED_PRODUCT-ADDED_TO_CART": {
        "funnel_include": "VIEWED_PRODUCT",
        "funnel_exclude": "ADDED_TO_CART",
    },
    "navigation_flow=/{Homepage}>*>__DROP__": {
        "page_interactions": ["/{Homepage}", "", "__DROP__"]
    },
    "navigation_flow=*": {"page_interactions": [""]},
    "navigation_flow=%2A": {"page_interactions": ["*"]},
    "navigation_flow=a%3Eb": {"page_interactions": ["a>b"]},
    "navigation_flow=100%25>+-=&?#~": {"page_interactions": ["100%", "+-=&?#~"]},
    "navigation_flow=/%D7%97%D7%A0%D7%95%D7%AA": {"page_interactions": ["/חנות"]},
    "navigation_flow=a b'\"|": {"page_interactions": ["a b'\"|"]},
}


def segment(fields):
    kinds = {"device_type": DeviceType, "funnel_include": FunnelStep, "funnel_exclude": FunnelStep}
    return Segment(**{name: kinds.get(name, tuple)(value) for name, value in fields.items()})


@pytest.mark.parametrize(("key", "fields"), GOLDEN.items())
def test_the_format_of_keys_never_changes(key, fields):
    assert segment(fields).key == key
    assert Segment.parse(key) == segment(fields)
    assert str(segment(fields)) == key


steps = st.sampled_from(FunnelStep)
odd_text = st.text(st.sampled_from(">*%+-=/{} a2Aé😀\n\t\0"), max_size=5) | st.text(max_size=8)
segments = st.one_of(
    st.builds(Segment, device_type=st.sampled_from(DeviceType)),
    st.builds(Segment, funnel_include=steps),
    st.builds(Segment, funnel_exclude=steps),
    st.builds(Segment, funnel_include=steps, funnel_exclude=steps),
    st.builds(Segment, page_interactions=st.lists(odd_text, min_size=1, max_size=5).map(tuple)),
)


@given(segments)
@example(Segment(page_interactions=("",)))
@example(Segment(page_interactions=("", "*", "%2A", ">", "%3E", "__DROP__")))
def test_a_key_parses_to_its_filter(one):
    assert Segment.parse(one.key) == one


@given(segments, segments)
@example(Segment(page_interactions=("",)), Segment(page_interactions=("*",)))
@example(Segment(page_interactions=("a", "b")), Segment(page_interactions=("a>b",)))
def test_two_filters_never_share_a_key(one, other):
    assert (one == other) == (one.key == other.key)


@given(segments)
def test_a_key_is_one_printable_line(one):
    """Keys appear in logs, tables and file names."""
    assert one.key.isprintable()
    assert one.key.isascii()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "MOBILE",
        "device_type",
        "device_type=",
        "device_type=mobile",
        "device_type=PHONE",
        "device_type=MOBILE ",
        "device_type=NOT_SELECTED_DEVICE_TYPE",
        "Device_Type=MOBILE",
        "conversion_funnel=",
        "conversion_funnel=VIEWED_PRODUCT",
        "conversion_funnel=+",
        "conversion_funnel=+-",
        "conversion_funnel=+BOUGHT",
        "conversion_funnel=+NOT_SELECTED_FUNNEL_STEP",
        "conversion_funnel=-ADDED_TO_CART+VIEWED_PRODUCT",
        "conversion_funnel=+VIEWED_PRODUCT+ADDED_TO_CART",
        "conversion_funnel=+VIEWED_PRODUCT-",
        "conversion_funnel=+VIEWED_PRODUCT\n",
        "navigation_flow",
        "navigation_flow=%FF",
        "page=/",
    ],
)
def test_an_unknown_key_is_rejected_with_the_format_to_write(key):
    with pytest.raises(ValueError, match=r"is not known\. Write device_type=MOBILE") as caught:
        Segment.parse(key)
    assert repr(key) in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "navigation_flow=",
        "navigation_flow=/{Homepage}>",
        "navigation_flow=%2F%7BHomepage%7D",
        "navigation_flow=/{Homepage}>%2a",
        "navigation_flow=a%3eb",
        "navigation_flow=50%",
        "navigation_flow=%zz",
        "navigation_flow=/חנות",
        "navigation_flow=a\nb",
    ],
)
def test_another_spelling_of_a_key_is_rejected(key):
    """Otherwise one filter would be loaded and stored under two keys."""
    with pytest.raises(ValueError, match="is not known"):
        Segment.parse(key)


@given(segments)
def test_a_query_has_explicit_dates_and_zone(one):
    wire = one.query(WINDOW).to_wire()
    assert wire["customTimePeriod"] == {"startDate": "2024-01-01", "endDate": "2024-01-02"}
    assert wire["timezone"] == "Asia/Jerusalem"
    assert len(wire) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"page_interactions": ()},
        {"device_type": DeviceType.ALL, "funnel_include": FunnelStep.VIEWED_PRODUCT},
        {"device_type": DeviceType.ALL, "page_interactions": ("",)},
    ],
)
def test_a_segment_needs_exactly_one_filter(fields):
    with pytest.raises(ValueError, match=r"filter|page_interactions"):
        Segment(**fields).query(WINDOW)


def test_the_default_segments_are_the_three_devices():
    assert [one.key for one in DEVICES] == [
        "device_type=DESKTOP",
        "device_type=MOBILE",
        "device_type=TABLET",
    ]

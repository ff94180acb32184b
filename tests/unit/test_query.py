"""`SessionsQuery`: the documented JSON bodies, and the messages of invalid queries."""

from __future__ import annotations

import json
import re
import sys
import zoneinfo
from datetime import date, timedelta
from zoneinfo import available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_wix.client.models import (
    DeviceType,
    FunnelStep,
    JobPage,
    JobStatus,
    Period,
    SessionsJob,
    SessionsQuery,
)
from prefect_wix.sandbox import Rules
from prefect_wix.sandbox.requests import ApiRequest, parse_sessions_query
from prefect_wix.sandbox.responses import ApiError

PERIODS = [
    *("TODAY", "YESTERDAY", "LAST_7_DAYS", "LAST_14_DAYS", "LAST_28_DAYS", "LAST_30_DAYS"),
    *("LAST_90_DAYS", "LAST_180_DAYS", "LAST_365_DAYS", "THIS_WEEK", "THIS_MONTH"),
    *("THIS_QUARTER", "THIS_YEAR", "LAST_WEEK", "LAST_MONTH", "LAST_QUARTER", "LAST_YEAR"),
    "LAST_12_MONTHS",
]
DEVICES = ["DESKTOP", "MOBILE", "TABLET", "ALL"]
STEPS = [
    *("SITE_SESSIONS", "VIEWED_PRODUCT", "ADDED_TO_CART", "REACHED_CHECKOUT"),
    "SESSIONS_CONVERTED",
]
DAYS = {"start_date": "2024-01-01", "end_date": "2024-01-03"}
DAYS_ON_THE_WIRE = {"customTimePeriod": {"startDate": "2024-01-01", "endDate": "2024-01-03"}}
MOBILE = {"device_type": "MOBILE"}


def errors_of(**fields):
    """The validation messages, as pydantic shows them."""
    with pytest.raises(ValidationError) as caught:
        SessionsQuery(**fields)
    return [error["msg"] for error in caught.value.errors()]


def test_the_enums_have_the_documented_values():
    """18 periods, 4 devices and 5 funnel steps."""
    assert [period.value for period in Period] == PERIODS
    assert [device.value for device in DeviceType] == DEVICES
    assert [step.value for step in FunnelStep] == STEPS


def test_the_documented_example_is_sent_as_documented():
    query = SessionsQuery(period=Period.LAST_30_DAYS, device_type=DeviceType.MOBILE)
    assert query.to_wire() == {
        "deviceType": {"type": "MOBILE"},
        "predefinedTimePeriod": "LAST_30_DAYS",
    }


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("device", DEVICES)
def test_each_period_and_device_has_its_documented_name(period, device):
    wire = SessionsQuery(period=period, device_type=device).to_wire()
    assert wire == {"predefinedTimePeriod": period, "deviceType": {"type": device}}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("other", STEPS)
def test_a_funnel_is_sent_with_either_step_or_both(step, other):
    assert SessionsQuery(**DAYS, funnel_include=step).to_wire() == {
        **DAYS_ON_THE_WIRE,
        "conversionFunnel": {"include": step},
    }
    assert SessionsQuery(**DAYS, funnel_exclude=step).to_wire() == {
        **DAYS_ON_THE_WIRE,
        "conversionFunnel": {"exclude": step},
    }
    assert SessionsQuery(**DAYS, funnel_include=step, funnel_exclude=other).to_wire() == {
        **DAYS_ON_THE_WIRE,
        "conversionFunnel": {"include": step, "exclude": other},
    }


@pytest.mark.parametrize(
    "pages", [["/{Homepage}"], [""], ["", "", "__DROP__"], ["/{Homepage}", "/cart-page"]]
)
def test_a_page_flow_can_include_any_page_and_the_exit(pages):
    assert SessionsQuery(**DAYS, page_interactions=pages).to_wire() == {
        **DAYS_ON_THE_WIRE,
        "navigationFlow": {"pageInteractions": pages},
    }


@pytest.mark.parametrize("pages", [["*"], ["/{Homepage}", "*", "__DROP__"], ["*", "", "*"]])
def test_a_star_is_any_page(pages):
    """Segment keys write any page as *; Wix's name of it is the empty text."""
    query = SessionsQuery(**DAYS, page_interactions=pages)
    sent = query.to_wire()["navigationFlow"]["pageInteractions"]
    assert sent == ["" if page == "*" else page for page in pages]
    assert query == SessionsQuery(**DAYS, page_interactions=sent)
    assert "**" not in str(query)


@pytest.mark.parametrize("page", ["/*", "**", " *", "%2A"])
def test_a_page_with_a_star_in_its_name_is_that_page(page):
    wire = SessionsQuery(**DAYS, page_interactions=[page]).to_wire()
    assert wire["navigationFlow"] == {"pageInteractions": [page]}


def test_a_time_zone_is_sent_only_if_the_query_has_one():
    assert "timezone" not in SessionsQuery(**DAYS, **MOBILE).to_wire()
    wire = SessionsQuery(**DAYS, **MOBILE, timezone="Asia/Jerusalem").to_wire()
    assert wire["timezone"] == "Asia/Jerusalem"


FUNNEL = {"funnel_include": "VIEWED_PRODUCT"}
PAGES = {"page_interactions": [""]}
INVALID_QUERIES = {
    "no period": (MOBILE, "No time period: give start_date and end_date, or period."),
    "both periods": (
        {**DAYS, **MOBILE, "period": "TODAY"},
        "Give either start_date and end_date, or period, not both.",
    ),
    "a period and one date": (
        {"end_date": "2024-01-03", **MOBILE, "period": "TODAY"},
        "Give either start_date and end_date, or period, not both.",
    ),
    "only a start": (
        {"start_date": "2024-01-01", **MOBILE},
        "start_date and end_date go together: give both.",
    ),
    "only an end": (
        {"end_date": "2024-01-01", **MOBILE},
        "start_date and end_date go together: give both.",
    ),
    "end equals start": (
        {"start_date": "2024-01-01", "end_date": "2024-01-01", **MOBILE},
        (
            "end_date 2024-01-01 must come after start_date 2024-01-01. "
            "The end date is not included, so one day is 2024-01-01 to 2024-01-02."
        ),
    ),
    "end before start": (
        {"start_date": "2024-01-02", "end_date": "2024-01-01", **MOBILE},
        (
            "end_date 2024-01-01 must come after start_date 2024-01-02. "
            "The end date is not included, so one day is 2024-01-01 to 2024-01-02."
        ),
    ),
    "no filter": (
        DAYS,
        (
            "No session filter: give device_type (ALL for every session), funnel_include and/or "
            "funnel_exclude, or page_interactions."
        ),
    ),
    "device and funnel": (
        {**DAYS, **MOBILE, **FUNNEL},
        "One session filter a query, but device_type and funnel_include/funnel_exclude are given.",
    ),
    "device and pages": (
        {**DAYS, **MOBILE, **PAGES},
        "One session filter a query, but device_type and page_interactions are given.",
    ),
    "funnel and pages": (
        {**DAYS, "funnel_exclude": "VIEWED_PRODUCT", **PAGES},
        (
            "One session filter a query, but funnel_include/funnel_exclude and page_interactions "
            "are given."
        ),
    ),
    "all three": (
        {**DAYS, **MOBILE, **FUNNEL, **PAGES},
        (
            "One session filter a query, but device_type and funnel_include/funnel_exclude and "
            "page_interactions are given."
        ),
    ),
    "no pages": (
        {**DAYS, "page_interactions": []},
        (
            'page_interactions is empty. Give at least one page, for example ["/{Homepage}", "*", '
            '"__DROP__"], or leave it out.'
        ),
    ),
    "unknown zone": (
        {**DAYS, **MOBILE, "timezone": "Mars/Olympus"},
        "timezone 'Mars/Olympus' is not an IANA time zone. Use a name such as Europe/Berlin.",
    ),
    "zone with a placeholder": (
        {**DAYS, **MOBILE, "timezone": "{zone}"},
        "timezone '{zone}' is not an IANA time zone. Use a name such as Europe/Berlin.",
    ),
    "101 characters": (
        {**DAYS, **MOBILE, "timezone": "Z" * 101},
        "timezone has 101 characters; Wix takes an IANA name of at most 100.",
    ),
}


@pytest.mark.parametrize(("fields", "message"), INVALID_QUERIES.values(), ids=INVALID_QUERIES)
def test_an_invalid_query_has_one_plain_message(fields, message):
    assert errors_of(**fields) == [message]


@pytest.mark.parametrize("zone", ["", " ", ".", "..", "/etc/passwd", "Mars", "{zone}", "Kiev"])
def test_an_invalid_time_zone_name_is_rejected(zone):
    """A folder of the zone database, a path out of it, and an empty name are no time zones."""
    assert errors_of(**DAYS, **MOBILE, timezone=zone) == [
        f"timezone {zone!r} is not an IANA time zone. Use a name such as Europe/Berlin."
    ]


@pytest.mark.parametrize(
    ("zone", "nearest"),
    [
        ("Europe/Kyev", "Europe/Kyiv"),
        ("europe/kyiv", "Europe/Kyiv"),
        ("Europe/berlin ", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("Asia/Tel Aviv", "Asia/Tel_Aviv"),
        ("../UTC", "UTC"),
        ("utc\0", "UTC"),
        ("posix/Europe/Kyiv", "Europe/Kyiv"),
        ("right/Europe/Kyiv", "Europe/Kyiv"),
    ],
)
def test_the_nearest_time_zone_is_suggested(zone, nearest):
    assert errors_of(**DAYS, **MOBILE, timezone=zone) == [
        f"timezone {zone!r} is not an IANA time zone. Did you mean {nearest}?"
    ]


@pytest.mark.parametrize("zone", ["localtime", "posixrules", "Factory"])
def test_a_file_of_this_machine_is_no_time_zone(zone):
    """Wix does not know it, and on another machine it is another zone or none."""
    (message,) = errors_of(**DAYS, **MOBILE, timezone=zone)
    assert message.startswith(f"timezone {zone!r} is not an IANA time zone.")
    assert f"mean {zone}" not in message


def test_without_a_time_zone_database_the_message_names_the_package(monkeypatch):
    for name in [name for name in (*sys.modules, "tzdata") if name.split(".")[0] == "tzdata"]:
        monkeypatch.setitem(sys.modules, name, None)
    zoneinfo.reset_tzpath(to=[])
    zoneinfo.ZoneInfo.clear_cache()
    try:
        (message,) = errors_of(**DAYS, **MOBILE, timezone="Europe/Kyiv")
    finally:
        zoneinfo.reset_tzpath()
    assert message == "This machine has no time zone database. Install it: pip install tzdata"


@pytest.mark.parametrize("value", [86400, 86400.0, "86400", "20240301", True, "2024-3-1", [2024]])
@pytest.mark.parametrize("field", ["start_date", "end_date"])
def test_a_number_is_not_a_date(field, value):
    """Pydantic would take it as seconds since 1970: 86400 is 1970-01-02."""
    assert errors_of(**MOBILE, **{**DAYS, field: value}) == [
        "Give a date without a time, as in 2024-01-31; a number is not a date."
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"device_type": "NOT_SELECTED_DEVICE_TYPE"},
        {"funnel_include": "NOT_SELECTED_FUNNEL_STEP"},
        {"funnel_exclude": "NOT_SELECTED_FUNNEL_STEP"},
        {"device_type": "mobile"},
    ],
)
def test_an_unknown_filter_value_is_rejected(fields):
    """Wix's NOT_SELECTED_* values are rejected too; the message lists the valid values."""
    (message,) = errors_of(**DAYS, **fields)
    assert "'MOBILE'" in message or "'VIEWED_PRODUCT'" in message


def test_an_unknown_field_is_rejected_by_name():
    with pytest.raises(ValidationError, match="not permitted") as caught:
        SessionsQuery(**DAYS, **MOBILE, timeZone="UTC")
    assert [error["loc"] for error in caught.value.errors()] == [("timeZone",)]


@pytest.mark.parametrize("day", ["2024-02-30", "yesterday", "2024-13-01"])
def test_an_invalid_date_is_rejected(day):
    assert errors_of(start_date=day, end_date="2024-12-01", **MOBILE)


def test_a_query_is_frozen_and_hashable():
    query = SessionsQuery(**DAYS, **MOBILE)
    with pytest.raises(ValidationError, match="frozen"):
        query.device_type = DeviceType.ALL
    assert hash(query) == hash(SessionsQuery(**DAYS, **MOBILE))


steps = st.sampled_from(FunnelStep)
filters = st.one_of(
    st.fixed_dictionaries({"device_type": st.sampled_from(DeviceType)}),
    st.fixed_dictionaries({"funnel_include": steps}, optional={"funnel_exclude": steps}),
    st.fixed_dictionaries({"funnel_exclude": steps}),
    st.fixed_dictionaries({"page_interactions": st.lists(st.text(), min_size=1, max_size=6)}),
)
starts = st.dates(date(1, 1, 1), date(9000, 1, 1))
ranges = st.builds(
    lambda start, days: {"start_date": start, "end_date": start + timedelta(days=days)},
    starts,
    st.integers(1, 1000),
)
periods = st.one_of(ranges, st.fixed_dictionaries({"period": st.sampled_from(Period)}))
zones = st.none() | st.sampled_from(sorted(available_timezones() - {"localtime", "Factory"}))
queries = st.builds(
    lambda period, chosen, zone: SessionsQuery(**period, **chosen, timezone=zone),
    periods,
    filters,
    zones,
)


@given(queries)
@settings(max_examples=300, deadline=None)
def test_every_valid_query_is_accepted_by_the_sandbox(query):
    """The sandbox validates a request strictly by Wix's documentation."""
    request = ApiRequest("list", "POST", {}, {}, json.dumps(query.to_wire()).encode())
    try:
        assert parse_sessions_query(request, Rules()) == query.to_wire()
    except ApiError as error:
        pytest.fail(f"{query!r}: {error.body}")


@given(queries)
@settings(max_examples=300, deadline=None)
def test_every_query_is_read_from_its_body(query):
    """Also as JSON text, and with null for what is not set."""
    body = json.loads(json.dumps(query.to_wire()))
    assert SessionsQuery.from_wire(body) == query
    assert SessionsQuery.from_wire(dict.fromkeys(WIRE_FIELDS) | body) == query
    assert SessionsQuery.from_wire(body).to_wire() == body


WIRE_FIELDS = [
    *("customTimePeriod", "predefinedTimePeriod", "timezone"),
    *("deviceType", "conversionFunnel", "navigationFlow"),
]


def test_the_documented_body_is_a_query():
    """Source: Wix, "List Sessions Async", example."""
    body = {"deviceType": {"type": "MOBILE"}, "predefinedTimePeriod": "LAST_30_DAYS"}
    assert SessionsQuery.from_wire(body) == SessionsQuery(period="LAST_30_DAYS", **MOBILE)


VALID_BODY = {"deviceType": {"type": "MOBILE"}, "predefinedTimePeriod": "TODAY"}
UNKNOWN = "unknown field or type"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"deviceType": "MOBILE"}, f"deviceType: {UNKNOWN}"),
        ({"deviceType": {"type": "FRIDGE"}}, "deviceType.type: Input should be 'DESKTOP', '"),
        ({"deviceType": {"type": "NOT_SELECTED_DEVICE_TYPE"}}, "deviceType.type: Input should be"),
        ({"deviceType": {"type": "ALL", "os": "x"}}, f"deviceType.os: {UNKNOWN}"),
        ({"deviceType": {}}, f"deviceType: {UNKNOWN}"),
        ({"conversionFunnel": {}}, f"conversionFunnel: {UNKNOWN}"),
        ({"conversionFunnel": {"include": "VIEWED_PRODUCT"}}, "One session filter a query"),
        ({"navigationFlow": {"pageInteractions": []}}, "navigationFlow.pageInteractions: page_int"),
        ({"navigationFlow": {"pageInteractions": "/a"}}, "navigationFlow.pageInteractions: Input"),
        ({"navigationFlow": ["/a"]}, f"navigationFlow: {UNKNOWN}"),
        ({"predefinedTimePeriod": "FORTNIGHT"}, "predefinedTimePeriod: Input should be 'TODAY'"),
        ({"predefinedTimePeriod": {"x": 1}}, f"predefinedTimePeriod.x: {UNKNOWN}"),
        ({"predefinedTimePeriod": None}, "No time period"),
        ({"customTimePeriod": {"startDate": "2024-01-01"}}, "Give either start_date and end_date"),
        ({"customTimePeriod": {"startDate": 86400}}, "customTimePeriod.startDate: Give a date"),
        ({"timezone": "Mars"}, "timezone: timezone 'Mars' is not an IANA time zone"),
        ({"timezone": 1}, "timezone: Input should be a valid string"),
        ({"timeZone": "UTC"}, f"timeZone: {UNKNOWN}"),
        ({"start_date": "2024-01-01"}, f"start_date: {UNKNOWN}"),
        ({"deviceType.type": "ALL"}, f"deviceType.type: {UNKNOWN}"),
        ({"query": VALID_BODY}, f"query.deviceType: {UNKNOWN}"),
    ],
)
def test_a_body_that_wix_does_not_document_is_refused_with_one_sentence(change, reason):
    """The sentence names the field as in the body."""
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        SessionsQuery.from_wire(VALID_BODY | change)
    message = str(caught.value)
    assert message.startswith("Not a query as Wix documents it: ")
    assert "\n" not in message


@pytest.mark.parametrize("body", [[], None, "TODAY", 1, [VALID_BODY], json.dumps(VALID_BODY)])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(ValueError, match=r"it: (body: unknown field or type|No time period)"):
        SessionsQuery.from_wire(body)


@given(queries)
@settings(max_examples=100, deadline=None)
def test_a_query_and_its_job_are_unchanged_by_a_json_round_trip(query):
    assert SessionsQuery.model_validate_json(query.model_dump_json()) == query
    job = SessionsJob(job_id="j", query=query, site_id="s", submitted_at="2024-01-01T00:00:00Z")
    assert SessionsJob.model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({**DAYS, **MOBILE}, "2024-01-01 to 2024-01-03 (site zone), device MOBILE"),
        (
            {"period": "TODAY", "funnel_exclude": "VIEWED_PRODUCT", "timezone": "UTC"},
            "TODAY (UTC), not reached VIEWED_PRODUCT",
        ),
        (
            {**DAYS, **FUNNEL, "funnel_exclude": "ADDED_TO_CART"},
            (
                "2024-01-01 to 2024-01-03 (site zone), reached VIEWED_PRODUCT, "
                "not reached ADDED_TO_CART"
            ),
        ),
        (
            {**DAYS, "page_interactions": ["/{Homepage}", "", "__DROP__"]},
            "2024-01-01 to 2024-01-03 (site zone), pages /{Homepage} > * > __DROP__",
        ),
    ],
)
def test_the_text_of_a_query_is_one_line(fields, line):
    assert str(SessionsQuery(**fields)) == line


@pytest.mark.parametrize("status", ["SOMETHING_NEW", "", "finished", None, "UNKNOWN_JOB_STATUS"])
def test_an_undocumented_status_becomes_unknown(status):
    assert JobStatus(status) is JobStatus.UNKNOWN


def test_a_page_is_frozen():
    page = JobPage(status="FINISHED", status_text="FINISHED", total=1, session_ids=("a",))
    with pytest.raises(ValidationError, match="frozen"):
        page.total = 2

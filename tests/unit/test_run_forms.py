"""The run form of every flow: titles, descriptions and defaults of its fields, and validation.

The tests read the parameter schema that Prefect stores for a deployment. The UI builds the form
from it, and the server validates the parameters of a run with it.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from prefect import Flow
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import ValidationError, validate

from prefect_wix import flows

MODULES = sorted(path.stem for path in Path(flows.__file__).parent.glob("[a-z]*.py"))
FLOWS = {
    member.name: member
    for name in MODULES
    for module in [importlib.import_module(f"prefect_wix.flows.{name}")]
    for member in vars(module).values()
    if isinstance(member, Flow) and member.fn.__module__ == module.__name__
}
REQUIRED = {"credentials", "account", "warehouse", "action"}
"""Parameters without a sensible default."""
SCHEMAS = {name: parameter_schema(one.fn).model_dump() for name, one in FLOWS.items()}


def fields(schema):
    """Every field of the form: the parameters, and the fields of their models."""
    yield from schema["properties"].items()
    for name, model in schema["definitions"].items():
        for field, shape in model.get("properties", {}).items():
            yield f"{name}.{field}", shape


def test_every_flow_is_tested():
    """The tests below find a new flow in its module."""
    assert set(FLOWS) == {
        *("list-sessions", "load-sessions", "load-sites"),
        *("profile-sessions", "mark-recordings"),
    }


@pytest.mark.parametrize("name", FLOWS)
def test_every_field_has_a_title_and_a_description(name):
    """A description ends with a full stop, since it stands alone in the form."""
    definitions = SCHEMAS[name]["definitions"]
    for field, shape in fields(SCHEMAS[name]):
        # A select in a model gets its title from its enumeration.
        assert shape.get("title") or definitions[enum_of(shape)]["title"], field
        assert shape.get("description", "").endswith("."), field


@pytest.mark.parametrize("name", FLOWS)
def test_every_description_survives_markdown(name):
    """Underscores and stars are in code, or within a word; `__DROP__` would become a bold DROP."""
    for field, shape in fields(SCHEMAS[name]):
        text = re.sub("`[^`]*`", "", shape["description"])
        assert not re.search(r"__|\*", text), field


@pytest.mark.parametrize("name", FLOWS)
def test_every_parameter_has_a_default_or_is_one_of_the_required(name):
    """Only parameters without a sensible default are required."""
    schema = SCHEMAS[name]
    assert set(schema.get("required", [])) <= REQUIRED
    for parameter, shape in schema["properties"].items():
        assert parameter in schema["required"] or "default" in shape, parameter


@pytest.mark.parametrize("name", FLOWS)
def test_enumerations_are_selects(name):
    """A parameter with a fixed set of values is shown as a select."""
    enumerations = {
        "refresh": 3,
        "when_too_big": 2,
        "action": 2,
        "on_broken": 2,
        "period": 18,
        "device_type": 4,
    }
    definitions = SCHEMAS[name]["definitions"]
    for field, shape in fields(SCHEMAS[name]):
        count = enumerations.get(field.rpartition(".")[2])
        if count is not None:
            assert len(definitions[enum_of(shape)]["enum"]) == count, field


def enum_of(shape):
    shapes = [shape, *shape.get("anyOf", []), *shape.get("allOf", [])]
    (found,) = [one["$ref"].rsplit("/", 1)[-1] for one in shapes if "$ref" in one]
    return found


BLOCK = {"api_key": "key", "site_id": "site"}
VALID = {
    "list-sessions": {"credentials": BLOCK},
    "load-sessions": {"credentials": BLOCK, "warehouse": {"url": "duckdb:///x.duckdb"}, "days": 7},
    "load-sites": {
        "account": {"api_key": "key", "account_id": "account"},
        "warehouse": {"url": "duckdb:///x.duckdb"},
        "sites": ["site"],
    },
    "profile-sessions": {"credentials": BLOCK, "warehouse": {"url": "duckdb:///x.duckdb"}},
    "mark-recordings": {
        "credentials": BLOCK,
        "warehouse": {"url": "duckdb:///x.duckdb"},
        "action": "recorded",
    },
}
INVALID = [
    ("list-sessions", {"query": {"period": "FORTNIGHT", "device_type": "ALL"}}),
    ("list-sessions", {"query": {"period": "TODAY", "device_type": "FRIDGE"}}),
    ("list-sessions", {"query": {"period": "TODAY", "device_type": "ALL", "country": "DE"}}),
    ("list-sessions", {"query": {"page_interactions": [], "period": "TODAY"}}),
    ("list-sessions", {"query": {"device_type": "ALL"}}),
    ("list-sessions", {"query": {"device_type": "ALL", "period": None, "start_date": None}}),
    ("list-sessions", {"query": {"device_type": "ALL", "start_date": "2024-03-01"}}),
    (
        "list-sessions",
        {"query": {"device_type": "ALL", "period": "TODAY", "start_date": "2024-03-01"}},
    ),
    (
        "list-sessions",
        {"query": {"device_type": "ALL", "period": "TODAY", "funnel_include": "VIEWED_PRODUCT"}},
    ),
    ("list-sessions", {"wix_query": "TODAY"}),
    ("list-sessions", {"timeout_seconds": 0}),
    ("list-sessions", {"output": "sessions.xlsx"}),
    ("load-sessions", {"days": 0}),
    ("load-sessions", {"start_date": "yesterday"}),
    ("load-sessions", {"lookback_days": -1}),
    ("load-sessions", {"segments": ["device=MOBILE"]}),
    ("load-sessions", {"segments": ["conversion_funnel=+BOUGHT"]}),
    ("load-sessions", {"segments": []}),
    ("load-sessions", {"refresh": "always"}),
    ("load-sessions", {"when_too_big": "load"}),
    ("load-sessions", {"jobs_in_flight": "many"}),
    ("load-sites", {"sites": [7]}),
    ("load-sites", {"sites": [""]}),
    ("load-sites", {"sites_per_run": 0}),
    ("load-sites", {"load": {"days": 0}}),
    ("load-sites", {"load": {"segments": ["device=MOBILE"]}}),
    ("load-sites", {"load": {"day": 1}}),
    ("load-sites", {"sites": "site"}),
    ("load-sites", {"sites": []}),
    ("load-sites", {"sites_in_flight": 0}),
    ("profile-sessions", {"on_broken": "ignore"}),
    ("profile-sessions", {"report": "report.pdf"}),
    ("profile-sessions", {"flows": {"home": "device_type=ALL"}}),
    ("mark-recordings", {"action": "forget"}),
    ("mark-recordings", {"calls_in_flight": 0}),
    ("mark-recordings", {"file": "ids.xlsx"}),
]


@pytest.mark.parametrize("name", FLOWS)
def test_valid_parameters_pass(name):
    """Otherwise the rejections below would prove nothing."""
    validate(VALID[name], SCHEMAS[name], raise_on_error=True)


def test_a_form_can_name_any_page():
    """It sends no empty text, so any page is a star."""
    query = {"period": "TODAY", "page_interactions": ["/{Homepage}", "*", "__DROP__"]}
    parameters = {**VALID["list-sessions"], "query": query}
    validate(parameters, SCHEMAS["list-sessions"], raise_on_error=True)
    page = SCHEMAS["list-sessions"]["definitions"]["SessionsQuery"]["properties"]
    assert "`*` any page" in page["page_interactions"]["description"]


def test_a_form_can_have_a_documented_body_instead_of_a_query():
    """The schema of a query rejects Wix's names; the body is a parameter of its own."""
    body = {"deviceType": {"type": "MOBILE"}, "predefinedTimePeriod": "LAST_30_DAYS"}
    validate(
        {"credentials": BLOCK, "wix_query": body}, SCHEMAS["list-sessions"], raise_on_error=True
    )
    assert validate({"credentials": BLOCK, "query": body}, SCHEMAS["list-sessions"]) != []


def test_the_server_names_the_wrong_field_of_a_query():
    """It would not if there were an alternative to the query."""
    query = {"period": "TODAY", "device_type": "FRIDGE"}
    (error,) = validate({"credentials": BLOCK, "query": query}, SCHEMAS["list-sessions"])
    assert list(error.path) == ["query", "device_type"]


@pytest.mark.parametrize(("name", "invalid"), INVALID)
def test_invalid_parameters_are_rejected_by_the_schema(name, invalid):
    """The server validates with the same schema before it creates a run, and shows no pattern."""
    errors = [error.message for error in validate({**VALID[name], **invalid}, SCHEMAS[name])]
    assert errors != []
    assert "does not match" not in " ".join(errors)


@pytest.mark.parametrize(
    ("name", "invalid", "words"),
    [
        ("load-sessions", {"segments": ["device=MOBILE"]}, "a segment such as device_type=MOBILE"),
        ("load-sessions", {"start_date": "1 March"}, "a date such as 2024-01-31"),
        ("load-sessions", {"timezone": "Berlin time"}, "a time zone such as Europe/Berlin"),
        ("load-sites", {"sites": ["my site"]}, "a site ID, copied from Wix"),
        ("profile-sessions", {"site_id": "my site"}, "a site ID, copied from Wix"),
        ("list-sessions", {"output": "x.xlsx"}, "a name ending in .csv, .jsonl"),
        (
            "list-sessions",
            {"query": {"period": "TODAY", "end_date": "2024-01-31"}},
            "nothing, since period is set",
        ),
        ("list-sessions", {"query": {"start_date": None, "end_date": None}}, "or a period"),
    ],
)
def test_the_server_rejects_a_value_with_words_and_an_example(name, invalid, words):
    with pytest.raises(ValidationError, match=words):
        validate({**VALID[name], **invalid}, SCHEMAS[name], raise_on_error=True)


NO_DATES = [86400, 86400.0, "86400", "20240301", " 1709251200 ", True, "2024-3-1", "yesterday"]


@pytest.mark.parametrize("value", NO_DATES)
@pytest.mark.parametrize("field", ["start_date", "end_date"])
@pytest.mark.parametrize("name", ["load-sessions", "load-sites", "profile-sessions"])
def test_a_number_is_not_a_date(name, field, value):
    """Pydantic would take it as seconds since 1970: 86400 is 1970-01-02."""
    day = {field: value}
    parameters = VALID[name] | ({"load": day} if name == "load-sites" else day)
    with pytest.raises(ParameterTypeError, match="Give a date without a time, as in 2024-01-31"):
        FLOWS[name].validate_parameters(parameters)


@pytest.mark.parametrize("name", ["load-sessions", "load-sites", "profile-sessions"])
def test_a_time_zone_is_checked_before_the_run_starts(name):
    zone = {"timezone": "Europe/Kyev"}
    parameters = VALID[name] | ({"load": zone} if name == "load-sites" else zone)
    with pytest.raises(ParameterTypeError, match=r"Did you mean Europe/Kyiv\?"):
        FLOWS[name].validate_parameters(parameters)

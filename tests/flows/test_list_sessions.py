"""The flow list-sessions: one query, one complete listing."""

from __future__ import annotations

import json
from datetime import date

import duckdb
import pytest

from prefect_wix import SessionsQuery
from prefect_wix.errors import DaysFailedError, IncompleteListingError, OutputError
from prefect_wix.flows.list_sessions import ARTIFACT_KEY, list_sessions
from prefect_wix.sandbox import Fault

QUERY = SessionsQuery(start_date="2024-03-01", end_date="2024-03-08", device_type="ALL")
FOUR_DAYS = QUERY.model_copy(update={"end_date": date(2024, 3, 5)})
ONE_DAY = QUERY.model_copy(update={"end_date": date(2024, 3, 2)})


def read_csv(path):
    header, *ids = path.read_text().splitlines()
    assert header == "session_id"
    return ids


def read_json_lines(path):
    return [json.loads(line)["session_id"] for line in path.read_text().splitlines()]


def read_parquet(path):
    return [row[0] for row in duckdb.sql(f"SELECT session_id FROM '{path}'").fetchall()]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("out.csv", read_csv),
        ("out.jsonl", read_json_lines),
        ("new/folder/out.ndjson", read_json_lines),
        ("out.parquet", read_parquet),
    ],
)
async def test_the_file_holds_the_ids_of_the_query(shop, credentials, tmp_path, name, read):
    """Each format holds exactly the IDs that Wix has, once each; the caller gets the path."""
    listing = await list_sessions(credentials, QUERY, tmp_path / name)
    ids = read(listing.output)
    assert len(ids) == len(set(ids)) == listing.summary.sessions
    assert set(ids) == shop.answer(QUERY.to_wire())
    assert listing.session_ids is None


async def test_without_an_output_the_flow_returns_the_ids(shop, credentials):
    """The result holds exactly the IDs that Wix has."""
    listing = await list_sessions(credentials, QUERY)
    assert set(listing.session_ids) == shop.answer(QUERY.to_wire())


async def test_a_small_job_takes_two_requests(shop, credentials):
    """A job of up to 1,000 sessions that is finished at its first poll takes two requests."""
    listing = await list_sessions(credentials, QUERY)
    assert 0 < listing.summary.sessions <= 1000
    assert shop.count() == 2


async def test_the_artifact_shows_the_query_and_its_result(credentials, artifacts):
    """The artifact has the query, the number of sessions and the job ID."""
    listing = await list_sessions(credentials, QUERY)
    artifact = (await artifacts(ARTIFACT_KEY))[0]
    assert "2024-03-01 to 2024-03-08 (site zone), device ALL" in artifact.data
    assert f"{listing.summary.sessions:,}" in artifact.data
    assert listing.summary.job.job_id in artifact.data


@pytest.mark.parametrize("name", ["out.xlsx", "out", ".", "n" * 300 + ".csv"])
async def test_an_invalid_output_is_rejected_before_any_request(shop, credentials, tmp_path, name):
    """An output that cannot be written submits no job."""
    with pytest.raises(OutputError):
        await list_sessions(credentials, QUERY, tmp_path / name)
    assert shop.count() == 0


@pytest.mark.parametrize("output", ["s3://bucket/ids.csv", "https://u:SECRET@host/ids.csv"])
async def test_a_url_as_output_is_rejected_before_any_request(
    shop, credentials, tmp_path, monkeypatch, output
):
    """It makes no folder s3:, and the sentence names the way into s3."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"output is a URL.*load-sessions writes to S3") as caught:
        await list_sessions(credentials, QUERY, output)
    assert "SECRET" not in str(caught.value)
    assert shop.count() == 0
    assert list(tmp_path.iterdir()) == []


async def test_a_tilde_in_output_is_the_home_folder(shop, credentials, tmp_path, monkeypatch):
    """The caller gets the path of the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    listing = await list_sessions(credentials, QUERY, "~/out.csv")
    assert listing.output == tmp_path / "home" / "out.csv"
    assert set(read_csv(listing.output)) == shop.answer(QUERY.to_wire())


async def test_a_star_in_a_page_flow_is_any_page(shop, credentials):
    """It finds what the empty text finds; as a page's name it would find nothing."""
    dates = {"start_date": "2024-03-01", "end_date": "2024-03-08"}
    wire = SessionsQuery(**dates, page_interactions=["/{Homepage}", ""]).to_wire()
    query = {**dates, "page_interactions": ["/{Homepage}", "*"]}
    listing = await list_sessions(credentials, query)
    assert set(listing.session_ids) == shop.answer(wire) != set()


async def test_the_documented_body_is_submitted_unchanged(shop, credentials):
    """A body from Wix's documentation, or from another program, is a query."""
    body = {
        "customTimePeriod": {"startDate": "2024-03-01", "endDate": "2024-03-08"},
        "conversionFunnel": {"include": "VIEWED_PRODUCT", "exclude": "SESSIONS_CONVERTED"},
        "timezone": "Asia/Jerusalem",
    }
    listing = await list_sessions(credentials, wix_query=body)
    assert shop.submits == [body]
    assert set(listing.session_ids) == shop.answer(body) != set()


async def test_the_default_is_all_sessions_of_the_last_seven_days(shop, credentials):
    """As a run form submits it without a change."""
    listing = await list_sessions(credentials)
    (body,) = shop.submits
    assert body == {"predefinedTimePeriod": "LAST_7_DAYS", "deviceType": {"type": "ALL"}}
    assert set(listing.session_ids) == shop.answer(body) != set()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"wix_query": {}}, "Not a query as Wix documents it: No time period"),
        (
            {"wix_query": QUERY.to_wire() | {"country": "DE"}},
            "Not a query as Wix documents it: country: unknown field or type",
        ),
    ],
)
async def test_a_wrong_body_is_one_sentence(shop, credentials, parameters, sentence):
    """It is the message of the failed run, and nothing is submitted."""
    state = await list_sessions(credentials, **parameters, return_state=True)
    assert sentence in state.message
    assert "\n" not in state.message
    assert shop.count() == 0


async def test_an_incomplete_listing_keeps_the_old_file(shop, credentials, tmp_path):
    """A listing that cannot be verified fails the run and writes no file."""
    output = tmp_path / "out.csv"
    output.write_text("old content")
    shop.faults = [Fault("wrong_total", delta=1)]
    with pytest.raises(IncompleteListingError, match="the listing is incomplete"):
        await list_sessions(credentials, ONE_DAY, output)
    assert output.read_text() == "old content"
    assert list(tmp_path.iterdir()) == [output]


async def test_a_window_that_fails_is_listed_day_by_day(shop, credentials, tmp_path, artifacts):
    """The file holds exactly the window's IDs, and the artifact shows the split."""
    shop.faults = [Fault("job_error", over_days=2)]
    listing = await list_sessions(credentials, FOUR_DAYS, tmp_path / "out.csv")
    ids = read_csv(listing.output)
    assert len(ids) == len(set(ids)) == listing.summary.sessions
    assert set(ids) == shop.answer(FOUR_DAYS.to_wire())
    artifact = (await artifacts(ARTIFACT_KEY))[0]
    assert "| Split window | 4 days, since the job for the window failed |" in artifact.data
    assert "2024-03-01 to 2024-03-05 (site zone), device ALL" in artifact.data
    assert f"| Requests | {shop.count()} |" in artifact.data


async def test_a_day_that_fails_is_named_and_keeps_the_old_file(shop, credentials, tmp_path):
    """The error names the day, and the file keeps its old content."""
    output = tmp_path / "out.csv"
    output.write_text("old content")
    shop.faults = [Fault("job_error", day="2024-03-03")]
    state = await list_sessions(credentials, FOUR_DAYS, output, return_state=True)
    with pytest.raises(DaysFailedError) as caught:
        await state.aresult()
    assert caught.value.days == (date(2024, 3, 3),)
    assert "Failed days: 2024-03-03." in state.message
    assert output.read_text() == "old content"
    assert list(tmp_path.iterdir()) == [output]


async def test_a_failed_job_is_resubmitted_once(shop, credentials):
    """One ERROR of Wix does not fail the run; the summary reports the resubmission."""
    shop.faults = [Fault("job_error", times=1)]
    listing = await list_sessions(credentials, QUERY)
    assert set(listing.session_ids) == shop.answer(QUERY.to_wire())
    assert listing.summary.resubmitted
    assert len(shop.submits) == 2


async def test_parameters_are_validated_as_the_form_sends_them(shop, credentials):
    """The flow validates a query sent as JSON and explains what is wrong with it."""
    with pytest.raises(Exception, match="One session filter a query"):
        await list_sessions(
            credentials, {"period": "TODAY", "device_type": "ALL", "page_interactions": [""]}
        )
    assert shop.count() == 0

"""The ad-hoc flow: one question, one complete answer."""

from __future__ import annotations

import json
from datetime import date

import duckdb
import pytest

from flows.list_sessions import ARTIFACT_KEY, list_sessions
from prefect_wix import SessionsQuery
from prefect_wix.errors import DaysFailedError, IncompleteListingError, OutputError
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
async def test_the_file_holds_the_answer(shop, credentials, tmp_path, name, read):
    """Each format holds exactly the ids that Wix has, once each; the caller gets the place."""
    listing = await list_sessions(credentials, QUERY, tmp_path / name)
    ids = read(listing.output)
    assert len(ids) == len(set(ids)) == listing.summary.sessions
    assert set(ids) == shop.answer(QUERY.to_wire())
    assert listing.session_ids is None


async def test_without_an_output_the_ids_come_back(shop, credentials):
    """Without an output the flow returns the ids."""
    listing = await list_sessions(credentials, QUERY)
    assert set(listing.session_ids) == shop.answer(QUERY.to_wire())


async def test_two_requests_for_a_small_job(shop, credentials):
    """A job of up to 1,000 sessions, done at its first poll, costs two requests in all."""
    listing = await list_sessions(credentials, QUERY)
    assert 0 < listing.summary.sessions <= 1000
    assert shop.count() == 2


async def test_the_artifact_says_what_was_asked_and_found(credentials, artifacts):
    """The run leaves a summary that a person reads in the UI."""
    listing = await list_sessions(credentials, QUERY)
    artifact = (await artifacts(ARTIFACT_KEY))[0]
    assert "2024-03-01 to 2024-03-08 (site zone), device ALL" in artifact.data
    assert f"{listing.summary.sessions:,}" in artifact.data
    assert listing.summary.job.job_id in artifact.data


@pytest.mark.parametrize("name", ["out.xlsx", "out", "."])
async def test_a_bad_output_is_refused_before_wix_is_asked(shop, credentials, tmp_path, name):
    """An output that can't be written costs no job."""
    with pytest.raises(OutputError):
        await list_sessions(credentials, QUERY, tmp_path / name)
    assert shop.count() == 0


async def test_an_incomplete_listing_leaves_the_old_file(shop, credentials, tmp_path):
    """A listing that can't be verified fails, and writes nothing over what was there."""
    output = tmp_path / "out.csv"
    output.write_text("as it was")
    shop.faults = [Fault("wrong_total", delta=1)]
    with pytest.raises(IncompleteListingError, match="the listing is incomplete"):
        await list_sessions(credentials, ONE_DAY, output)
    assert output.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [output]


async def test_a_window_that_fails_is_put_together_from_its_days(
    shop, credentials, tmp_path, artifacts
):
    """The file holds exactly the window's ids, and the summary in the UI says how it came to be."""
    shop.faults = [Fault("job_error", over_days=2)]
    listing = await list_sessions(credentials, FOUR_DAYS, tmp_path / "out.csv")
    ids = read_csv(listing.output)
    assert len(ids) == len(set(ids)) == listing.summary.sessions
    assert set(ids) == shop.answer(FOUR_DAYS.to_wire())
    artifact = (await artifacts(ARTIFACT_KEY))[0]
    assert "| Put together | from 4 days, since the job for the whole failed |" in artifact.data
    assert "2024-03-01 to 2024-03-05 (site zone), device ALL" in artifact.data
    assert f"| Requests | {shop.count()} |" in artifact.data


async def test_a_day_that_fails_is_named_and_leaves_the_old_file(shop, credentials, tmp_path):
    """The run fails with the day's name, and what was there stays."""
    output = tmp_path / "out.csv"
    output.write_text("as it was")
    shop.faults = [Fault("job_error", day="2024-03-03")]
    state = await list_sessions(credentials, FOUR_DAYS, output, return_state=True)
    with pytest.raises(DaysFailedError) as caught:
        await state.aresult()
    assert caught.value.days == (date(2024, 3, 3),)
    assert "Days that fail by themselves: 2024-03-03." in state.message
    assert output.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [output]


async def test_a_failed_job_is_asked_once_more(shop, credentials):
    """One ERROR of Wix does not fail the run; the summary says that the job was asked again."""
    shop.faults = [Fault("job_error", times=1)]
    listing = await list_sessions(credentials, QUERY)
    assert set(listing.session_ids) == shop.answer(QUERY.to_wire())
    assert listing.summary.resubmitted
    assert len(shop.submits) == 2


async def test_parameters_are_checked_as_the_form_sends_them(shop, credentials):
    """A query sent as JSON is checked by the flow's own schema, in words."""
    with pytest.raises(Exception, match="One session filter a query"):
        await list_sessions(
            credentials, {"period": "TODAY", "device_type": "ALL", "page_interactions": [""]}
        )
    assert shop.count() == 0

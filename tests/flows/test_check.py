"""The commands for people: `prefect-wix demo`, `check`, `status` and `forget`."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import reload
from pathlib import Path
from threading import Thread

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate, WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_wix.blocks.documents import DOCUMENTS, save_documents
from prefect_wix.blocks.shared_limit import limit_name
from prefect_wix.cli import app, check
from prefect_wix.cli.check import CHECKS, Found, run_checks
from prefect_wix.cli.demo import run
from prefect_wix.cli.forget import forget
from prefect_wix.cli.status import read_status, status
from prefect_wix.client.models import SessionsJob
from prefect_wix.deployments.definitions import DEPLOYMENTS
from prefect_wix.deployments.registration import deploy
from prefect_wix.errors import DeploymentError
from prefect_wix.planning.partitions import JobRecord, JobState, Partition
from prefect_wix.sandbox import Fault
from prefect_wix.tasks.artifacts import CALENDAR_KEY
from prefect_wix.warehouse.factory import open_warehouse
from tests.processes import free_port
from tests.warehouses import land, store


@pytest.fixture
async def client():
    """A client of the server, which has none of our blocks and deployments before and after."""
    async with get_client() as client:
        await remove_ours(client)
        yield client
        await remove_ours(client)


async def remove_ours(client):
    for one in DOCUMENTS:
        with suppress(ObjectNotFound):
            found = await client.read_block_document_by_name(one.name, one.slug.split("/")[0])
            await client.delete_block_document(found.id)
    for one in DEPLOYMENTS:
        with suppress(ObjectNotFound):
            found = await client.read_deployment_by_name(one.full_name)
            await client.delete_deployment(found.id)
    with suppress(ObjectNotFound):
        await client.delete_work_pool("wix")
    for one in await client.read_global_concurrency_limits():
        await client.delete_global_concurrency_limit_by_name(one.name)


@pytest.fixture
def settings(shop, database):
    """The settings of the sandbox shop, as in .env."""
    return {
        "WIX_API_KEY": shop.api_key,
        "WIX_SITE_ID": shop.site_id,
        "WIX_BASE_URL": shop.url,
        "WIX_WAREHOUSE_URL": f"duckdb:///{database}",
    }


async def checked(settings):
    """The mark of each check, and the text of all lines."""
    lines = []
    passed = await run_checks(Found(settings), lines.append)
    marks = "".join(line[0] for line in lines)
    assert passed == ("✗" not in marks)
    assert [line[2:15].strip() for line in lines] == [*CHECKS]
    return marks, "\n".join(lines)


async def test_the_check_names_the_next_command_at_each_step(client, settings, shop):
    """From nothing to a running worker; a failed check does not hide the others."""
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        marks, text = await checked({})
    assert marks == "✗✗––✗–––"
    assert "Start a server with `prefect server start`" in text

    marks, text = await checked({})
    assert marks == "✓✗––✗–✗–"
    assert "Set WIX_API_KEY and WIX_SITE_ID in the environment or in .env" in text

    marks, text = await checked(settings)
    assert marks == "✓✗✓✓✗✗✗–"
    assert "wix-credentials/wix is not saved. Run `prefect-wix setup`." in text

    await save_documents(settings)
    marks, text = await checked({})
    assert marks == "✓✓✓✓✓✓✗–"
    assert "Run `prefect-wix deploy`" in text

    await client.create_work_pool(WorkPoolCreate(name="wix", type="process"))
    await deploy("wix")
    marks, text = await checked({})
    assert marks == "✓✓✓✓✓✓✓✗"
    assert "Run `prefect worker start --pool wix`." in text

    # A worker looks for runs.
    await client.get_scheduled_flow_runs_for_work_pool("wix")
    marks = ""
    while marks != "✓✓✓✓✓✓✓✓":  # the server notes it in the background
        marks, text = await checked(settings)
    assert shop.submits == []
    assert shop.api_key not in text

    # What was switched on or off in the UI stays so when the time zone changes.
    for name, active in (("daily-load", False), ("hourly-today", True)):
        found = await client.read_deployment_by_name(f"load-sessions/{name}")
        await client.update_deployment_schedule(found.id, found.schedules[0].id, active=active)
        await deploy("wix", timezone="Asia/Jerusalem")
        [changed] = (await client.read_deployment(found.id)).schedules
        assert (changed.active, changed.schedule.timezone) == (active, "Asia/Jerusalem")


async def test_what_went_wrong_later_is_found(client, settings, shop):
    """A changed .env, an inactive limit, a key that Wix rejects or that lacks the permission."""
    await save_documents(settings | {"WIX_API_KEY": "c4nary"})
    name = limit_name(shop.site_id)
    await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active=False))
    marks, text = await checked(settings)
    assert marks[:6] == "✓✗✗✗✓✗"
    assert "wix-credentials/wix differs from the settings. Run `prefect-wix setup`." in text
    assert "401" in text
    assert f"Run `prefect gcl enable {name}`." in text
    assert "c4nary" not in text

    shop.faults = [Fault("forbidden", on="result")]
    await save_documents(settings)
    marks, text = await checked({})
    assert marks[:5] == "✓✓✓✗✓"
    assert "403" in text


async def test_no_check_hangs(settings, shop, monkeypatch):
    """Each has a time limit, and a server that does not respond is one sentence."""
    monkeypatch.setattr(check, "SECONDS", 3)
    shop.faults = [Fault("slow", seconds=30)]
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        marks, text = await checked(settings)
    assert marks == "✗✓✗✗✓–––"
    assert "No Prefect server responds at http://127.0.0.1" in text
    assert text.count("No result within 3 s. Run it again in a minute.") == 2


NOW = datetime.now(UTC)


def record_of(partition, *, hours_ago=1.0):
    at = NOW - timedelta(hours=hours_ago)
    return JobRecord.intend(partition, at=at, run_id=None).submitted(
        SessionsJob(
            job_id="job-1", query=partition.query, site_id=partition.site_id, submitted_at=at
        )
    )


@pytest.fixture
async def partitions(database, shop):
    """The days of a warehouse: landed, failed, running, orphaned, and stale; newest first."""
    days = [NOW.date() - timedelta(days=age) for age in range(10, 15)]
    landed, failed, running, orphaned, _ = found = [
        Partition(shop.site_id, day, "device_type=MOBILE", "UTC") for day in days
    ]
    warehouse = open_warehouse(f"duckdb:///{database}")
    await warehouse.prepare()
    await land(warehouse, ["a", "b"], landed, record=record_of(landed))
    await land(warehouse, ["a", "b"], found[-1], record=record_of(found[-1], hours_ago=11 * 24))
    record = record_of(failed)
    await store(warehouse, record.ended(JobState.FAILED, at=NOW, reason="It failed."))
    await store(warehouse, record_of(running))
    await store(warehouse, JobRecord.intend(orphaned, at=NOW, run_id=None))
    return found


async def test_a_warehouse_that_can_only_be_read_is_found(make_bench, settings, monkeypatch):
    """Before its first load, too: the check writes a record that belongs to no site."""
    # A server that is read-only after a failover is waited for.
    monkeypatch.setattr("prefect_wix.warehouse.postgres.BUSY_TIMEOUT_SECONDS", 1.0)
    bench = make_bench("postgres")
    settings |= {"WIX_WAREHOUSE_SCHEMA": bench.schema}
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        for option, mark in (("", "✓"), ("", "✓"), ("?default_transaction_read_only=on", "✗")):
            marks, text = await checked(settings | {"WIX_WAREHOUSE_URL": bench.url + option})
            assert marks[4] == mark, text
    assert await bench.sql(f"SELECT count(*) FROM {bench.name('wix_session_jobs')}") == [(1,)]


@contextmanager
def rejecting_server(*accepted):
    """The base URL of a server that returns 401, and 200 on the accepted paths."""

    class Rejecting(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in accepted else 401)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Rejecting) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.filterwarnings("ignore:Cyclopts")
@pytest.mark.parametrize("command", ["check", "setup", "status"])
def test_a_server_that_rejects_requests_does_not_show_its_password(
    command, monkeypatch, tmp_path, capsys
):
    """A URL with a user and a password, as for a proxy. No command shows a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["prefect-wix", command])
    with rejecting_server(401) as url:
        api = f"{url.replace('://', '://me:c4nary@')}/api"
        with temporary_settings({PREFECT_API_URL: api}), pytest.raises(SystemExit) as ended:
            app.main()
    shown = f"{ended.value.code} {capsys.readouterr().out}"
    assert ended.value.code not in (None, 0)
    assert "c4nary" not in shown
    assert f"No Prefect server responds at {url}/api (status 401)" in shown or command == "status"


@pytest.mark.filterwarnings("ignore:Cyclopts")
def test_a_server_that_accepts_no_key_is_one_sentence(monkeypatch, tmp_path):
    """Its health check needs no key, as in Prefect Cloud."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["prefect-wix", "setup"])
    with (
        rejecting_server(401, "/api/health") as url,
        temporary_settings({PREFECT_API_URL: f"{url}/api"}),
        pytest.raises(SystemExit, match="The Prefect server returned 401"),
    ):
        app.main()


@pytest.mark.filterwarnings("ignore:Cyclopts")
def test_the_help_of_a_command_says_what_its_docstring_says(monkeypatch, capsys):
    """The list of commands has one line of each."""
    for arguments, text in (
        (["check", "--help"], "the exit code is 1 if something fails"),
        (["setup", "--help"], "WIX_API_KEY, WIX_SITE_ID, WIX_WAREHOUSE_URL and others"),
        (["--help"], "Save block types, blocks and rate limits on the Prefect server"),
    ):
        monkeypatch.setattr("sys.argv", ["prefect-wix", *arguments])
        with suppress(SystemExit):
            reload(app).main()
        assert text in " ".join(capsys.readouterr().out.split())


def test_the_comparison_says_if_it_uses_another_key_than_the_settings(
    client, settings, monkeypatch, tmp_path, capsys
):
    """The block on the server is used, as in every run."""
    asyncio.run(save_documents(settings | {"WIX_API_KEY": "c4nary-key"}))
    (tmp_path / ".env").write_text("".join(f"{name}={one}\n" for name, one in settings.items()))
    monkeypatch.chdir(tmp_path)
    used = []

    async def observe(credentials, *_, **__):
        used.append(credentials.api_key.get_secret_value())

    monkeypatch.setattr(check, "observe", observe)
    check.check(api=True)
    shown = capsys.readouterr().out
    assert used == ["c4nary-key"]
    assert "wix-credentials/wix differs from the settings. Run `prefect-wix setup`." in shown
    assert "c4nary" not in shown


def test_options_of_the_comparison_need_it():
    """They would be ignored without --api, and nothing would be provoked or written."""
    for options in ({"provoke_429": True}, {"output": Path("table.json")}):
        with pytest.raises(ValueError, match="--api"):
            check.check(**options)


def test_the_status_shows_gaps_jobs_and_the_last_error(
    client, partitions, settings, shop, monkeypatch, tmp_path, capsys
):
    """As a calendar for people and as JSON for scripts, without a request to Wix."""
    (tmp_path / ".env").write_text("".join(f"{name}={one}\n" for name, one in settings.items()))
    monkeypatch.chdir(tmp_path)
    landed, failed, running, orphaned, _ = partitions
    status()
    shown = capsys.readouterr().out
    assert f"Site {shop.site_id}, {landed.day - timedelta(days=20)} to {NOW.date()} (UTC)" in shown
    (row,) = re.findall(r"device_type=MOBILE( .*)", shown.split("\n\n")[1])
    assert row == f"  {'':16}◪□▸✗■{'□' * 9}"
    submitted = f"{NOW - timedelta(hours=1):%F %T} UTC"
    assert (
        f"1 running job at Wix, the last one for {running.day}, device_type=MOBILE, {submitted}"
    ) in shown
    assert f"1 possible orphan job at Wix, the last one for {orphaned.day}" in shown
    assert f"Last error: {failed.day}, device_type=MOBILE, {submitted}, job-1, It failed." in shown
    assert shop.requests == []

    status(as_json=True)
    found = json.loads(capsys.readouterr().out)
    days = found["days"]["device_type=MOBILE"]
    assert [days[str(one.day)] for one in partitions] == [
        *("landed", "failed", "running", "missing", "stale")
    ]
    assert (len(days), found["timezone"]) == (14, "UTC")
    assert found["last_error"]["reason"] == "It failed."


def test_the_numbers_of_rows_are_shown_before_they_are_erased(
    client, partitions, settings, monkeypatch, tmp_path, capsys
):
    """The first partition is landed. Nothing is erased without --yes, or without a selection."""
    (tmp_path / ".env").write_text("".join(f"{name}={one}\n" for name, one in settings.items()))
    (tmp_path / "ids.txt").write_text("a\nunknown\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="Set --site, --before or --session-id"):
        forget(yes=True)
    for begin, rows in (
        ("Nothing was erased.", 2),
        ("Erased:", 2),
        ("Nothing in the warehouse", 0),
    ):
        forget(session_id=Path("ids.txt"), yes=begin != "Nothing was erased.")
        shown = capsys.readouterr().out
        assert shown.startswith(begin)
        assert f" {rows}  wix_session_ids\n" in shown


async def test_the_status_before_the_first_load_says_how_to_load(client, settings, database):
    """The settings are enough; without them, the status names what is missing."""
    calendar, details = await read_status(settings)
    assert (calendar.states, details["days"]) == ({}, {})
    with pytest.raises(DeploymentError, match=r"no block .* Set WIX_WAREHOUSE_URL in the env"):
        await read_status({})
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(DeploymentError, match=r"No Prefect server responds\. Set WIX_WAREHOUSE_URL"),
    ):
        await read_status({})


def test_the_second_demo_submits_jobs_only_for_days_that_may_have_changed(
    client, monkeypatch, tmp_path, capsys, artifacts
):
    """Those of the lookback: three days by three devices. Each load leaves a calendar."""
    monkeypatch.chdir(tmp_path)
    run()
    assert "First load, no history yet" in capsys.readouterr().out
    run()
    shown = capsys.readouterr().out
    assert "First load" not in shown
    assert re.search(r"9 jobs, \d+ requests. The other 81 are unchanged and were not", shown)
    calendar = asyncio.run(artifacts(CALENDAR_KEY))[0]
    assert calendar.description.endswith(": 90 landed")
    assert calendar.data.count(f"  {'■' * 30}\n") == 3

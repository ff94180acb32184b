"""The command `prefect-wix sandbox`, as a process."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from dotenv import dotenv_values

from prefect_wix.cli.app import main
from prefect_wix.sandbox import World, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIST = "/analytics/v1/sessions/list/async"
BODY = {
    "customTimePeriod": {"startDate": "2024-03-01", "endDate": "2024-03-08"},
    "deviceType": {"type": "ALL"},
}


@pytest.fixture
def command() -> Iterator[subprocess.Popen[str]]:
    process = start("--port", "0", "--sessions", "50", "--fault", "server_error:on=list,times=1")
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "prefect_wix.cli.app", "sandbox", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_runs_until_a_signal(command: subprocess.Popen[str], number: signal.Signals):
    """It prints its settings as a .env file. SIGINT and SIGTERM stop it."""
    assert command.stdout is not None
    title, *lines = [command.stdout.readline().strip() for _ in range(9)]
    settings = dict(line.split("=", 1) for line in lines)
    headers = {"authorization": settings["WIX_API_KEY"], "wix-site-id": settings["WIX_SITE_ID"]}
    url = settings["WIX_BASE_URL"]
    with httpx.Client(base_url=url, headers=headers, verify=False) as wix:
        statuses = [wix.post(LIST, json=BODY).status_code for _ in range(2)]
    command.send_signal(number)
    output, errors = command.communicate(timeout=60)

    assert statuses == [503, 200]
    assert (command.returncode, output, errors) == (0, "", "")
    assert title.startswith(f"# Wix sandbox at {url} with 50 sessions")


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--fault", "nope"], "Unknown fault 'nope'"),
        (["--fault", "slow:kind=x"], "kind of a fault must be a number, not 'x'"),
        (["--days", "-1"], 'Invalid value "-1" for --days. Must be >= 0.'),
        (["--timezone", "Mars"], "'Mars' is not an IANA time zone"),
        (["--job-seconds", "soon"], "'soon' is neither seconds nor a range"),
        (["--events", "nowhere.csv"], "nowhere.csv"),
        (["--events", __file__], "has no column event_time"),
        (["--fault", "slow:seconds=soon"], "seconds of a fault must be a number, not 'soon'"),
        (["--port", "99999"], 'Invalid value "99999" for --port. Must be <= 65535.'),
    ],
)
def test_bad_arguments_are_one_sentence(
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """The command ends with an error, prints nothing else, and no other exception escapes."""
    monkeypatch.setattr(sys, "argv", ["prefect-wix", "sandbox", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    output, errors = capsys.readouterr()

    assert ended.value.code
    assert sentence in f"{errors}{ended.value.code}"
    assert output == ""


def test_a_taken_port_is_one_sentence(tmp_path: Path):
    """The settings file is written only after the port is bound."""
    with running(World()) as sandbox:
        port = sandbox.url.rpartition(":")[2]
        process = start("--port", port, "--env-file", str(tmp_path / ".env"))
        _, errors = process.communicate(timeout=30)

    assert process.returncode == 1
    assert f"can't listen on 127.0.0.1:{port} (Address already in use)" in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_settings_file_is_private_and_replaces_only_its_own_kind(tmp_path: Path):
    """Mode 0600, all credentials in it; the settings of a real account are not overwritten."""
    file = tmp_path / ".env"
    file.write_text("WIX_API_KEY=real\n")
    refused = start("--port", "0", "--env-file", str(file))
    assert "has other settings than a sandbox's" in refused.communicate(timeout=30)[1]
    assert file.read_text() == "WIX_API_KEY=real\n"

    file.write_text("# Wix sandbox at http://127.0.0.1:1\n")
    file.chmod(0o644)
    process = start("--port", "0", "--sessions", "50", "--env-file", str(file))
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)

    settings = dotenv_values(file)
    assert f"at {settings['WIX_BASE_URL']} with 50 sessions" in line
    assert settings["WIX_ACCOUNT_API_KEY"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_unknown_rule_lists_all_assumptions():
    """Each with its default, in one sentence and before the server starts."""
    refused = start("--rule", "pages=50")
    _, errors = refused.communicate(timeout=30)

    assert refused.returncode == 1
    assert errors.startswith("Rule 'pages'")
    assert "page_cap=1000" in errors

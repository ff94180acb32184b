"""The pages and the README: every command and program of them, run from top to bottom."""

from __future__ import annotations

import re
import subprocess
import time
from contextlib import ExitStack

import duckdb
import pytest

from tests.processes import ROOT, background, free_port, responds, wait_until

# A block without a language is output; one of a file in examples/ is run by test_examples.
BLOCK = re.compile(r"^```(\w+)\n(?!--8<--)(.*?)^```$", re.MULTILINE | re.DOTALL)
TUTORIAL = ROOT / "docs" / "tutorial.md"
GENERATED = ROOT / "docs" / "reference" / "commands.md"
OTHERS = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md")} - {TUTORIAL, GENERATED})
EXAMPLES = [block for page in (TUTORIAL, *OTHERS) for block in BLOCK.findall(page.read_text())]
LONG_RUNNING = ("prefect server start", "prefect-wix sandbox", "prefect worker start")
# test_wheel runs the first, test_automations the second on a block.
RUN_ELSEWHERE = (
    "python3 -m venv .venv\n. .venv/bin/activate\npip install 'prefect-wix[duckdb]'\n"
    "prefect-wix demo\n",
    "prefect-wix automations --notify custom-webhook/on-call\n",
)
OF_PARQUET_FILES = "FROM 'lake/"
"""A query that tests/engines/test_changes.py runs on a folder of Parquet files."""
LOCKED = "Conflicting lock is held"
"""The tutorial says of it: repeat the query when the run has ended."""

pytestmark = pytest.mark.xdist_group("readme")


class Shell:
    """Runs the examples one after the other, in one folder."""

    def __init__(self, folder, environment, stack):
        self.folder, self.environment, self.stack = folder, environment, stack
        self.server_port, self.sandbox_port = free_port(), free_port()
        self.environment["PREFECT_SERVER_API_PORT"] = str(self.server_port)
        self.exports = ""

    def run_example(self, language, text):
        text = text.replace("127.0.0.1:4200", f"127.0.0.1:{self.server_port}")
        text = text.replace(
            "prefect-wix sandbox", f"prefect-wix sandbox --port {self.sandbox_port}"
        )
        if language == "python":
            self.run(f"set -a; . ./.env; set +a; python - <<'PROGRAM'\n{text}PROGRAM")
        elif language == "sql":
            self.query(text)
        elif text.splitlines()[-1].startswith(LONG_RUNNING):
            self.start(text)
        else:
            self.run(text)

    def query(self, sql):
        with self.opened() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS consumed_versions "
                "(site_id TEXT, session_date DATE, segment TEXT, version BIGINT)"
            )
            assert connection.execute(sql).fetchall()

    def opened(self):
        """A connection to the warehouse; a run that has the file open ends first."""

        def connect():
            try:
                return duckdb.connect(str(self.folder / "sessions.duckdb"))
            except duckdb.IOException as error:
                if LOCKED not in str(error):
                    raise

        return wait_until(connect, seconds=60, what="the end of a run")

    def start(self, command):
        log = self.folder / "output.txt"
        self.stack.enter_context(
            background(self.exports + command, cwd=self.folder, env=self.environment, log=log)
        )
        if "server" in command:
            health = f"http://127.0.0.1:{self.server_port}/api/health"
            wait_until(lambda: responds(health), seconds=60, what="the start of the server")
        if "sandbox" in command:
            settings = self.folder / ".env"
            wait_until(
                lambda: settings.exists() and "WIX_INSTANCE_ID" in settings.read_text(),
                seconds=30,
                what="the start of the sandbox",
            )

    def run(self, script):
        done = self.execute(script)
        for _ in range(20):
            if done.returncode and LOCKED in done.stderr:
                time.sleep(2)
                done = self.execute(script)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        exports = [line for line in script.splitlines() if line.startswith("export ")]
        self.exports += "".join(f"{line}\n" for line in exports)

    def execute(self, script):
        return subprocess.run(
            ["bash", "-c", f"set -e\n{self.exports}{script}"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


def test_every_example_of_the_pages_works(tmp_path, environment):
    """Each command and each program works: the tutorial in its order, then the other pages."""
    assert {language for language, _ in EXAMPLES} == {"bash", "python", "sql"}
    assert {text for _, text in EXAMPLES} >= set(RUN_ELSEWHERE)
    with ExitStack() as stack:
        shell = Shell(tmp_path, environment, stack)
        for language, text in EXAMPLES:
            if text not in RUN_ELSEWHERE and OF_PARQUET_FILES not in text:
                shell.run_example(language, text)
    assert len((tmp_path / "mobile.csv").read_text().splitlines()) > 100
    with shell.opened() as connection:
        (landed,) = connection.execute("SELECT count(*) FROM wix_session_receipts").fetchone()
    assert landed == 7 * 9 + 7 * 2

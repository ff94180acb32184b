"""The README: every command and program of it, run from top to bottom."""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack

import duckdb
import pytest

from tests.processes import ROOT, background, free_port, responds, wait_until

README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```(bash|python)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LONG_RUNNING = ("prefect server start", "prefect-wix sandbox", "prefect worker start")
# test_wheel runs the first; CI installs, checks and tests.
RUN_ELSEWHERE = (
    "python3 -m venv .venv\n. .venv/bin/activate\npip install 'prefect-wix[duckdb]'\n"
    "prefect-wix demo\n",
    "make check\nmake test\n",
)

pytestmark = pytest.mark.xdist_group("readme")


class Shell:
    """Runs the README's examples one after the other, in the folder of a checkout."""

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
        elif text.splitlines()[-1].startswith(LONG_RUNNING):
            self.start(text)
        else:
            self.run(text)

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
        done = subprocess.run(
            ["bash", "-c", f"set -e\n{self.exports}{script}"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        exports = [line for line in script.splitlines() if line.startswith("export ")]
        self.exports += "".join(f"{line}\n" for line in exports)


def test_every_example_of_the_readme_works(tmp_path, environment):
    """Each command and each program works, in the order of the README."""
    assert {text for _, text in EXAMPLES} >= set(RUN_ELSEWHERE)
    with ExitStack() as stack:
        shell = Shell(tmp_path, environment, stack)
        for language, text in EXAMPLES:
            if text not in RUN_ELSEWHERE:
                shell.run_example(language, text)
    assert len((tmp_path / "mobile.csv").read_text().splitlines()) > 100
    with duckdb.connect(str(tmp_path / "sessions.duckdb"), read_only=True) as connection:
        (landed,) = connection.execute("SELECT count(*) FROM wix_session_receipts").fetchone()
    assert landed == 7 * 3 + 7 * 2

"""What works where an optional package, or even Prefect, can't be imported."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from prefect_wix.errors import MissingExtraError
from prefect_wix.profiles.report import check_report
from tests.processes import ROOT

REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run_python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
    )


@pytest.mark.parametrize(
    "module",
    [
        *("client", "jobs", "load.loader", "load.mark_recordings", "load.id_source", "warehouse"),
        *("planning.plan", "profiles.profiling", "profiles.report", "profiles.tables"),
    ],
)
def test_the_core_can_be_imported_without_prefect(module):
    done = run_python(REFUSE.format(refused={"prefect"}) + f"import prefect_wix.{module}")
    assert done.returncode == 0, done.stderr


def test_the_models_can_be_imported_without_prefect():
    code = "from prefect_wix import Period, SessionsJob, SessionsQuery"
    done = run_python(REFUSE.format(refused={"prefect"}) + code)
    assert done.returncode == 0, done.stderr


def test_the_package_can_be_imported_where_fcntl_is_missing():
    # As on Windows, where filelock has another backend; here it warns that it has none.
    code = "import warnings; warnings.simplefilter('ignore'); import prefect_wix.cli.server"
    done = run_python(REFUSE.format(refused={"fcntl"}) + code)
    assert done.returncode == 0, done.stderr


def test_a_refused_package_cannot_be_imported():
    """A precondition of the tests above."""
    done = run_python(REFUSE.format(refused={"prefect"}) + "import prefect_wix.blocks")
    assert "No module named 'prefect'" in done.stderr


def test_importing_the_root_imports_no_submodule():
    """Each public name is imported on first use."""
    done = run_python("import prefect_wix, sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert {one for one in done.stdout.split() if one.startswith("prefect_wix.")} == set()


def test_parquet_without_duckdb_names_the_package_to_install(tmp_path):
    code = REFUSE.format(refused={"duckdb"}) + (
        "from pathlib import Path\n"
        "from prefect_wix.jobs.writers import check_output\n"
        f"check_output(Path({str(tmp_path)!r}) / 'ids.csv')\n"
        f"check_output(Path({str(tmp_path)!r}) / 'ids.parquet')"
    )
    done = run_python(code)
    assert MissingExtraError.__name__ in done.stderr
    assert "pip install 'prefect-wix[duckdb]'" in done.stderr


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_a_missing_extra_names_the_command_that_installs_it(package, tmp_path):
    """The module imports without the extra, and the check names the install command."""
    code = REFUSE.format(refused={package}) + (
        "from pathlib import Path\n"
        "from prefect_wix.profiles.report import check_report\n"
        f"check_report(Path({str(tmp_path)!r}) / 'report.html')"
    )
    last = run_python(code).stderr.strip().splitlines()[-1]
    assert re.search(
        rf"needs the package {package}. Run: pip install 'prefect-wix\[report\]'", last
    )
    check_report(tmp_path / "report.html")

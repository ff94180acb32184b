"""Arrows point one way, and the client works where Prefect is not installed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import prefect_wix

PACKAGE = Path(prefect_wix.__file__).parent
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
OURS = {name: path for name, path in FILES.items() if ".sandbox" not in name}
REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def imports_of(path):
    """Every module that a file names in an import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module


def importers_of(package, files=OURS):
    return {
        name.removeprefix("prefect_wix.")
        for name, path in files.items()
        if any(one.split(".")[0] == package for one in imports_of(path))
    }


def ours(name):
    """The modules of the package that a module imports, by their short names."""
    return {
        one.removeprefix("prefect_wix.")
        for one in imports_of(FILES[f"prefect_wix.{name}"])
        if one.startswith("prefect_wix.")
    }


def run_python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""},
    )


WITHOUT_PREFECT = ("client", "jobs", "load.loader", "load.mark_recordings", "load.id_source")


@pytest.mark.parametrize(
    "module", [*WITHOUT_PREFECT, "planning.plan", "profiles.profiling", "profiles.report"]
)
def test_the_core_works_where_prefect_cannot_be_imported(module):
    done = run_python(REFUSE.format(refused={"prefect"}) + f"import prefect_wix.{module}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["SessionsQuery", "SessionsJob", "Period"])
def test_the_nouns_need_no_prefect_either(name):
    done = run_python(REFUSE.format(refused={"prefect"}) + f"from prefect_wix import {name}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["warehouse", "profiles.profiling", "profiles.tables"])
def test_the_warehouse_and_its_profiles_need_no_prefect(module):
    done = run_python(REFUSE.format(refused={"prefect"}) + f"import prefect_wix.{module}")
    assert done.returncode == 0, done.stderr


def test_a_package_that_is_refused_cannot_be_imported():
    """The trick of the tests above works: without it they would pass for nothing."""
    done = run_python(REFUSE.format(refused={"prefect"}) + "import prefect_wix.blocks")
    assert "No module named 'prefect'" in done.stderr


def test_httpx_is_imported_only_where_requests_are_made():
    # tasks.progress: only the name of the error that Prefect's own client raises.
    assert importers_of("httpx") == {
        "client.auth",
        "client.client",
        "client.responses",
        "tasks.progress",
    }


def test_prefect_is_imported_only_by_blocks_and_tasks():
    importers = importers_of("prefect")
    assert {package_of(name) for name in importers} == {"blocks", "tasks"}


def test_nothing_in_the_package_imports_a_flow_or_a_deployment():
    for package in ("flows", "blocks", "deployments", "benchmarks", "tests"):
        assert importers_of(package, FILES) == set()


def test_the_sandbox_and_the_package_share_no_code():
    """Else the sandbox would agree with every mistake of the client."""
    assert {
        name for name in OURS if any(".sandbox" in one for one in imports_of(OURS[name]))
    } == set()
    for name, path in FILES.items():
        if ".sandbox" in name:
            named = {one for one in imports_of(path) if one.startswith("prefect_wix")}
            assert all(one.startswith("prefect_wix.sandbox") for one in named), name


ARROWS = {
    "errors": set(),
    "clock": set(),
    "extras": {"errors"},
    "spool": {"errors"},
    "client": {"errors", "clock"},
    "planning": {"client.models"},
    "jobs": {"planning", "spool", "client", "errors", "clock", "extras"},
    "warehouse": {"planning", "spool", "errors", "extras"},
    "load": {"jobs", "warehouse", "planning", "spool", "client", "errors", "extras"},
    "profiles": {"warehouse", "planning", "client.models", "errors", "extras"},
    "blocks": {"warehouse", "client", "errors", "clock"},
    "tasks": {
        *("blocks", "profiles", "load", "jobs", "warehouse", "planning", "spool", "client"),
        *("errors", "extras"),
    },
}
"""What each package may import beside itself: the arrows of the design, top to bottom."""


def package_of(name):
    """The package, or the module at the root, that a module belongs to."""
    return name.split(".")[0]


@pytest.mark.parametrize("name", [one for one in OURS if one != "prefect_wix.__init__"])
def test_imports_follow_the_arrows(name):
    short = name.removeprefix("prefect_wix.")
    imported = {one for one in ours(short) if package_of(one) != package_of(short)}
    allowed = ARROWS[package_of(short)]
    assert {one for one in imported if not {one, package_of(one)} & allowed} == set()


def test_the_root_imports_nothing_before_it_is_used():
    """`import prefect_wix` is instant; its names come from where they are defined."""
    done = run_python("import prefect_wix, sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert {one for one in done.stdout.split() if one.startswith("prefect_wix.")} == set()


@pytest.mark.parametrize("name", [one for one in OURS if OURS[one].name != "__init__.py"])
def test_a_module_defines_what_it_exports(name):
    """Only a package's `__init__` re-exports."""
    tree = ast.parse(OURS[name].read_text())
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    module = __import__(name, fromlist=["__all__"])
    assert imported & {*module.__all__} == set()


def test_every_package_that_is_imported_is_declared():
    """What Prefect happens to bring today it may drop tomorrow."""
    root = PACKAGE.parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(one for name in extras for one in extras[name])]
    declared = {re.match(r"[\w-]+", line)[0].lower() for line in lines}
    folders = [PACKAGE, *(root / name for name in ("flows", "blocks", "deployments"))]
    imported = {
        one.split(".")[0]
        for folder in folders
        for path in folder.rglob("*.py")
        for one in imports_of(path)
    }
    foreign = imported - sys.stdlib_module_names - {"prefect_wix", "flows", "blocks", "deployments"}
    packages = {
        one: {name.lower().replace("_", "-") for name in names}
        for one, names in packages_distributions().items()
    }
    missing = {one for one in foreign if not declared & packages[one]}
    assert "httpx" in foreign
    assert missing == set()


def test_imports_make_no_circle():
    def visit(name, above):
        assert name not in above, f"{' -> '.join([*above, name])}"
        if name not in done and f"prefect_wix.{name}" in FILES:
            for one in ours(name):
                visit(one, [*above, name])
        done.add(name)

    done = set()
    for name in FILES:
        visit(name.removeprefix("prefect_wix."), [])


def test_every_public_name_is_there_and_listed():
    for name in prefect_wix.__all__:
        assert getattr(prefect_wix, name).__name__ == name
        assert name in dir(prefect_wix)


def test_a_name_that_is_not_there_is_missed_as_usual():
    with pytest.raises(AttributeError, match="has no attribute 'Sessions'"):
        _ = prefect_wix.Sessions


@pytest.mark.parametrize("name", OURS)
def test_every_module_lists_its_names_and_has_them(name):
    names = [
        node.value
        for node in ast.parse(OURS[name].read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    ]
    (listed,) = names
    exported = ast.literal_eval(listed)
    module = __import__(name, fromlist=exported or ["__doc__"])
    assert [one for one in exported if not hasattr(module, one)] == []
    assert module.__doc__

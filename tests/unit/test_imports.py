"""The direction of imports, and the exports of every module."""

from __future__ import annotations

import ast
import re
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
SANDBOX = "prefect_wix.sandbox"
MODULES = {name: path for name, path in FILES.items() if not name.startswith(SANDBOX)}


def imports_of(path):
    """Every module that a file imports, at any level of the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module


def importers_of(package, files=MODULES):
    return {
        name.removeprefix("prefect_wix.")
        for name, path in files.items()
        if any(one.split(".")[0] == package for one in imports_of(path))
    }


def own_imports_of(name):
    """The modules of prefect_wix that a module imports, by their short names."""
    return {
        one.removeprefix("prefect_wix.")
        for one in imports_of(FILES[f"prefect_wix.{name}"])
        if one.startswith("prefect_wix.")
    }


def test_httpx_is_imported_only_where_requests_are_made():
    # The cli and tasks.progress import only classes of errors that Prefect's client raises.
    assert importers_of("httpx") == {
        "client.auth",
        "client.client",
        "client.responses",
        "cli.app",
        "cli.check",
        "tasks.progress",
    }


def test_prefect_is_imported_only_above_the_core():
    importers = importers_of("prefect")
    above = {"blocks", "tasks", "flows", "deployments", "cli"}
    assert {package_of(name) for name in importers} == above


def test_nothing_in_the_package_imports_the_starter_project_or_the_tests():
    for package in ("flows", "blocks", "deployments", "benchmarks", "tests"):
        assert importers_of(package, FILES) == set()


def test_the_sandbox_and_the_package_share_no_code():
    """Shared code would hide the client's mistakes from the tests with the sandbox."""
    assert {
        name
        for name in MODULES
        if package_of(name.removeprefix("prefect_wix.")) != "cli"
        and any(one.startswith(SANDBOX) for one in imports_of(MODULES[name]))
    } == set()
    for name, path in FILES.items():
        if name.startswith(SANDBOX):
            imported = {one for one in imports_of(path) if one.startswith("prefect_wix")}
            assert all(one.startswith("prefect_wix.sandbox") for one in imported), name


CORE = ("profiles", "load", "jobs", "warehouse", "planning", "spool", "client", "errors")
ALLOWED_IMPORTS = {
    "errors": set(),
    "clock": set(),
    "spool": {"errors"},
    "client": {"errors", "clock"},
    "planning": {"client.models"},
    "jobs": {"planning", "spool", "client", "errors", "clock"},
    "warehouse": {"planning", "spool", "errors"},
    "load": {"jobs", "warehouse", "planning", "spool", "client", "errors"},
    "profiles": {"warehouse", "planning", "spool.files", "client.models", "errors"},
    "blocks": {"warehouse", "client", "errors", "clock"},
    "tasks": {"blocks", *CORE},
    "flows": {"tasks", "blocks", *CORE},
    "deployments": {"flows", "tasks", "blocks", *CORE},
    "cli": {"deployments", "flows", "blocks", "sandbox", *CORE},
}
"""The imports that each package may have beside its own modules, from the bottom to the top."""


def package_of(name):
    """The package of a module, or the module itself at the root."""
    return name.split(".")[0]


@pytest.mark.parametrize("name", [one for one in MODULES if one != "prefect_wix.__init__"])
def test_a_module_imports_only_what_its_package_may(name):
    short = name.removeprefix("prefect_wix.")
    imported = {one for one in own_imports_of(short) if package_of(one) != package_of(short)}
    allowed = ALLOWED_IMPORTS[package_of(short)]
    assert {one for one in imported if not {one, package_of(one)} & allowed} == set()


def defined_in(module):
    """The names that a module defines at its top level, without those it imports."""
    for node in ast.parse(FILES[module].read_text()).body:
        targets = getattr(node, "targets", [getattr(node, "target", node)])
        yield from (getattr(one, "id", getattr(one, "name", None)) for one in targets)


@pytest.mark.parametrize("name", [one for one in MODULES if MODULES[one].name != "__init__.py"])
def test_public_names_are_imported_from_the_module_that_defines_them(name):
    """Only a package's `__init__` re-exports."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in FILES:
            names = {alias.name for alias in node.names}
            assert names <= {*defined_in(node.module)}, node.module
            assert not [one for one in names if one.startswith("_")], node.module


def test_every_imported_package_is_a_declared_dependency():
    """A dependency of Prefect can be dropped in its next version."""
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
    foreign = imported - sys.stdlib_module_names - {"prefect_wix", "build_funnel"}
    packages = {
        one: {name.lower().replace("_", "-") for name in names}
        for one, names in packages_distributions().items()
    }
    missing = {one for one in foreign if not declared & packages[one]}
    assert "httpx" in foreign
    assert missing == set()


def test_imports_have_no_cycle():
    def visit(name, importers):
        assert name not in importers, f"{' -> '.join([*importers, name])}"
        if name not in done and f"prefect_wix.{name}" in FILES:
            for one in own_imports_of(name):
                visit(one, [*importers, name])
        done.add(name)

    done = set()
    for name in FILES:
        visit(name.removeprefix("prefect_wix."), [])


def test_every_public_name_can_be_imported_and_is_listed():
    for name in prefect_wix.__all__:
        assert getattr(prefect_wix, name).__name__ == name
        assert name in dir(prefect_wix)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Sessions'"):
        _ = prefect_wix.Sessions


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_docstring(name):
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))


@pytest.mark.parametrize("name", [one for one in MODULES if MODULES[one].name == "__init__.py"])
def test_every_package_lists_the_names_that_it_exports(name):
    module = __import__(name.removesuffix(".__init__"), fromlist=["__all__"])
    assert [one for one in module.__all__ if not hasattr(module, one)] == []

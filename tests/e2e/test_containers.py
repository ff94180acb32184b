"""The Dockerfile and compose.yaml, as far as they can be checked without a Docker engine."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.warehouses import ROOT

FOLDER = ROOT / "deployments"
SERVICES = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
# The binary itself: the wheel's wrapper on PATH always exits with 0.
COMPOSE = Path(find_spec("compose").origin).with_name("docker-compose")
SETTINGS = {"POSTGRES_PASSWORD": "word", "WIX_API_KEY": "key", "WIX_SITE_ID": "site"}


def compose(*arguments, **settings):
    path = {"PATH": os.environ["PATH"]}
    command = [COMPOSE, "--env-file", os.devnull, "-f", "deployments/compose.yaml"]
    command += ["--project-directory", ".", *arguments]
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(command, env=path | settings, check=False, **options)


def test_docker_compose_accepts_the_file():
    """`docker compose config` succeeds with and without the sandbox profile."""
    for profile in ([], ["--profile", "sandbox"]):
        result = compose(*profile, "config", "--quiet", **SETTINGS)
        assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("missing", SETTINGS)
def test_a_missing_setting_is_named(missing):
    """The error names the setting and .env before any service starts."""
    result = compose("config", **{name: text for name, text in SETTINGS.items() if name != missing})
    assert result.returncode != 0
    assert re.search(rf"{missing} is missing a value: set it in \.env", result.stderr)


def test_the_services_contain_no_secret():
    """Keys and passwords come from variables; the worker gets none, since it reads the blocks."""
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"KEY|PASSWORD", name):
                assert value.startswith("${")
    assert {*SERVICES["worker"]["environment"]} == {"PREFECT_API_URL"}


def test_ports_are_open_to_this_machine_only():
    """The server has no login, so it must not be reachable from the network."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports == ["127.0.0.1:4200:4200"]


def test_the_paths_and_extras_of_the_image_exist():
    """Each copied path exists, and each installed extra is an extra of the package."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert copied
    for path in " ".join(copied).split():
        assert (ROOT / path).exists()
    (extras,) = re.findall(r'"prefect-wix\[([\w,]+)\]"', DOCKERFILE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*extras.split(",")} <= {*project["optional-dependencies"]}


def test_the_image_does_not_run_as_root():
    """The command runs as the user wix."""
    assert DOCKERFILE.index("\nUSER wix\n") < DOCKERFILE.index("\nCMD ")

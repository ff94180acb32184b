"""The image and the services around it, as far as they can be checked where no Docker runs."""

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

SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# The program itself: what the wheel puts on the path ends with 0 whatever it is told.
COMPOSE = Path(find_spec("compose").origin).with_name("docker-compose")
SETTINGS = {"POSTGRES_PASSWORD": "word", "WIX_API_KEY": "key", "WIX_SITE_ID": "site"}


def compose(*arguments, **settings):
    path = {"PATH": os.environ["PATH"]}
    command = [COMPOSE, "--env-file", os.devnull, *arguments]
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(command, env=path | settings, check=False, **options)


def test_docker_compose_accepts_the_file():
    """The program that will read it says so, with the sandbox and without."""
    for profile in ([], ["--profile", "sandbox"]):
        done = compose(*profile, "config", "--quiet", **SETTINGS)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("missing", SETTINGS)
def test_a_setting_that_is_missing_is_named(missing):
    """It says which, and where to set it, before anything is started."""
    done = compose("config", **{name: text for name, text in SETTINGS.items() if name != missing})
    assert done.returncode != 0
    assert re.search(rf"{missing} is missing a value: set it in \.env", done.stderr)


def test_no_secret_stands_in_the_services():
    """Every key and password comes from outside; the worker gets none, since it has the blocks."""
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"KEY|PASSWORD", name):
                assert value.startswith("${")
    assert {*SERVICES["worker"]["environment"]} == {"PREFECT_API_URL"}


def test_nothing_listens_beyond_this_machine():
    """The server has no login, so that no port is open to the network."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports == ["127.0.0.1:4200:4200"]


def test_the_image_is_made_of_what_is_there():
    """Each path that is copied exists, and each extra that is installed is one of the package."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert copied
    for path in " ".join(copied).split():
        assert (ROOT / path).exists()
    (extras,) = re.findall(r"whl\)\[([\w,]+)\]", DOCKERFILE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*extras.split(",")} <= {*project["optional-dependencies"]}


def test_the_image_runs_without_rights():
    """What it starts is no work for root."""
    assert DOCKERFILE.index("\nUSER wix\n") < DOCKERFILE.index("\nCMD ")

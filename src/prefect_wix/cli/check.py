"""The command that checks everything a load needs, and says what to do about what is missing.

To add a check: a function here, and its line in `CHECKS`. What Wix does not document is compared
with a real site in `prefect_wix.cli.api_check`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from httpx import HTTPError
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import DeploymentStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, PrefectException

from prefect_wix.blocks.documents import Settings, find_block, find_server, read_settings
from prefect_wix.blocks.shared_limit import limit_name
from prefect_wix.cli.api_check import observe, show_comparison
from prefect_wix.client.models import check_timezone
from prefect_wix.deployments.definitions import ACCOUNT, CREDENTIALS, DEPLOYMENTS, WAREHOUSE
from prefect_wix.deployments.registration import find_deployment
from prefect_wix.errors import BadRequestError, DeploymentError, NotFoundError, WixError
from prefect_wix.planning.partitions import UNCONFIRMED, JobRecord, JobState, Partition
from prefect_wix.warehouse.interface import BUSY_TIMEOUT_SECONDS

SECONDS = 20.0
"""The time limit of a check. A locked warehouse is waited for in addition."""
DAILY_LOAD = "load-sessions/daily-load"
INTENT = JobRecord(
    record_id="prefect-wix check",
    partition=Partition("prefect-wix-check", date(1970, 1, 1), "device_type=ALL", "UTC"),
    state=JobState.INTENDED,
    intended_at=UNCONFIRMED,
)
WRITTEN = INTENT.ended(
    JobState.SUPERSEDED,
    at=UNCONFIRMED,
    reason="Written by `prefect-wix check`; there is no job.",
)
"""Each check of a warehouse writes the same record, which belongs to no site."""

T = TypeVar("T")


class SkippedError(Exception):
    """A check was not made, since it needs what another one did not find."""


@dataclass
class Found:
    """What the checks have found so far."""

    settings: Settings
    server: str | None = None
    """The URL of the Prefect server, which responds."""
    credentials: Any = None
    """The credentials block of the site."""
    daily_load: DeploymentResponse | None = None


def check(*, api: bool = False, provoke_429: bool = False, output: Path | None = None) -> None:
    """Check everything that a load needs, one line each; the exit code is 1 if something fails.

    Checks the Prefect server, the blocks (or, where none is saved, the environment and .env), the
    key at Wix (2 requests, no job), the warehouse (creates or migrates the tables), the rate limit,
    the deployments and the worker.

    Args:
        api: Instead, compare with the site what Wix does not document: about 20 requests, of which
            five start jobs. Prints what is assumed and seen, without IDs and secrets.
        provoke_429: With api, also send requests until Wix refuses one; takes two minutes, in which
            other runs of the site are refused, too.
        output: With api, a file for the table as JSON.
    """
    if not api and (provoke_429 or output):
        raise ValueError("--provoke-429 and --output need --api.")
    found = Found(read_settings(Path.cwd()))
    if not api:
        sys.exit(not asyncio.run(run_checks(found)))
    seen: dict[str, str] = {}
    try:
        asyncio.run(_observe_api(found, seen, provoke_429=provoke_429))
    finally:
        if seen:
            show_comparison(seen, output)


async def _observe_api(found: Found, seen: dict[str, str], *, provoke_429: bool) -> None:
    with suppress(DeploymentError):
        await _check_server(found)
    credentials, problem = await find_block(CREDENTIALS, found.settings, found.server)
    if problem:
        print(problem)  # noqa: T201
    await observe(credentials, seen, provoke_429=provoke_429)


async def run_checks(found: Found, echo: Callable[[str], None] = print) -> bool:
    """Make all checks in order and return whether none failed.

    Args:
        found: the settings; the checks add what they find.
        echo: receives one line per check, and no secret.
    """
    passed = True
    for name, make in CHECKS.items():
        mark = "✗"
        seconds = SECONDS + (BUSY_TIMEOUT_SECONDS if name == "warehouse" else 0.0)
        try:
            async with asyncio.timeout(seconds):
                mark, sentence = "✓", await make(found)
        except SkippedError as error:
            mark, sentence = "–", f"skipped: {error}"
        except TimeoutError:
            sentence = f"No result within {seconds:g} s. Run it again in a minute."
        except HTTPError as error:
            sentence = f"The Prefect server failed ({type(error).__name__}). Read its log."
        except (WixError, PrefectException, ValueError, OSError) as error:
            sentence = str(error)
        passed = passed and mark != "✗"
        echo(f"{mark} {name:<12} {' '.join(sentence.split())}")
    return passed


async def _check_server(found: Found) -> str:
    found.server = await find_server()
    return found.server


async def _check_credentials(found: Found) -> str:
    found.credentials, problem = await find_block(CREDENTIALS, found.settings, found.server)
    if problem:
        raise DeploymentError(problem)
    return f"for site {found.credentials.site_id}"


async def _check_key(found: Found) -> str:
    async with _require(found.credentials, "credentials").get_client() as client:
        zone = await client.get_site_timezone()
    if zone is None:
        raise WixError("The site has no time zone. Set one in Wix, or as a parameter of each load.")
    return f"Wix accepts it; the site's days are in {check_timezone(zone)} (1 request)"


async def _check_permission(found: Found) -> str:
    async with _require(found.credentials, "credentials").get_client() as client:
        # Reading a job that does not exist needs the permission, and submits none.
        with suppress(NotFoundError, BadRequestError):
            await client.get_list_sessions_job_result(str(uuid4()), limit=1)
    return "the key may list sessions (1 request, no job)"


async def _check_warehouse(found: Found) -> str:
    block, problem = await find_block(WAREHOUSE, found.settings, found.server)
    warehouse = block.get_warehouse()
    await warehouse.prepare()
    # Creating tables that exist writes nothing.
    for record in (INTENT, WRITTEN):
        await warehouse.save_record(record)
    if problem:
        raise DeploymentError(problem)
    return "can be read and written, and has the tables of this version"


async def _check_limit(found: Found) -> str:
    _require(found.server, "server")
    name = limit_name(_require(found.credentials, "credentials").site_id)
    async with get_client() as client:
        try:
            limit = await client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            raise DeploymentError(f"No limit {name}. Run `prefect-wix setup`.") from None
    if not limit.active:
        raise DeploymentError(f"{name} is inactive. Run `prefect gcl enable {name}`.")
    return f"{name} is active"


async def _check_deployments(found: Found) -> str:
    _require(found.server, "server")
    names = [one.full_name for one in DEPLOYMENTS if ACCOUNT not in one.blocks.values()]
    async with get_client() as client:
        read = {name: await find_deployment(client, name) for name in names}
    found.daily_load = read[DAILY_LOAD]
    if missing := [name for name in names if read[name] is None]:
        raise DeploymentError(
            f"{', '.join(missing)} not found. Run `prefect-wix deploy`, or `prefect-wix serve`."
        )
    return f"all {len(names)} of a site exist"


async def _check_worker(found: Found) -> str:
    daily_load = _require(found.daily_load, f"deployment {DAILY_LOAD}")
    pool = daily_load.work_pool_name
    start = f"prefect worker start --pool {pool}" if pool else "prefect-wix serve"
    # The server marks a deployment as ready when a process has looked for its runs.
    if daily_load.status is not DeploymentStatus.READY:
        raise DeploymentError(f"Nothing looks for runs of {DAILY_LOAD}. Run `{start}`.")
    return f"`{start}` is running"


def _require(value: T | None, name: str) -> T:
    if value is None:
        raise SkippedError(f"it needs the {name}")
    return value


CHECKS: dict[str, Callable[[Found], Awaitable[str]]] = {
    "server": _check_server,
    "credentials": _check_credentials,
    "key": _check_key,
    "permission": _check_permission,
    "warehouse": _check_warehouse,
    "shared limit": _check_limit,
    "deployments": _check_deployments,
    "worker": _check_worker,
}
"""Check by name, in order. It returns what it saw, or raises an error that says what to do."""

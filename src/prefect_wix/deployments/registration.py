"""Register the deployments on a Prefect server: for the workers of a pool, or served here.

The deployments name their flows by module path and have no pull step, so a worker needs this
package and no checkout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import aserve
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from prefect_wix.deployments.definitions import ACCOUNT, DAILY, DEPLOYMENTS, TAGS, Definition
from prefect_wix.errors import DeploymentError

Echo = Callable[[str], None]
DEFAULT_TIMEZONE = "Etc/UTC"


async def deploy(
    pool: str, *, cron: str | None = None, timezone: str | None = None, echo: Echo = print
) -> None:
    """Create or update every deployment for the workers of a pool.

    A schedule that exists is kept; with ``cron`` or ``timezone`` it gets these, and stays active or
    inactive. A deployment that was served before is taken over.

    Args:
        pool: the name of the work pool.
        cron: when the daily loads start; 4:00 by default.
        timezone: the IANA time zone of ``cron``: the site's, so that the previous day is over.
        echo: receives one line per deployment.

    Raises:
        DeploymentError: the pool or a block document does not exist; nothing was changed.
    """
    async with get_client() as client:
        try:
            await client.read_work_pool(pool)
        except ObjectNotFound:
            raise DeploymentError(
                f"The server has no work pool {pool}; nothing was deployed. Create it with "
                f"`prefect work-pool create {pool} --type process`, or choose another with --pool."
            ) from None
        deployments = await _make_deployments(client, cron, timezone, echo, pool=pool)
    for deployment in deployments:
        await deployment.aapply(work_pool_name=pool)
        echo(f"deployed  {deployment.full_name}")


async def serve(
    *, cron: str | None = None, timezone: str | None = None, echo: Echo = print
) -> None:
    """Register every deployment and execute its runs in this process until it is stopped.

    The deployments stay active when it stops: late runs start when it is served again.

    Args:
        cron: as for `deploy`.
        timezone: as for `deploy`.
        echo: receives one line per skipped deployment.

    Raises:
        DeploymentError: a deployment belongs to a work pool, or a block document does not exist;
            nothing was changed.
    """
    async with get_client() as client:
        for definition in DEPLOYMENTS:
            found = await find_deployment(client, definition.full_name)
            if found and found.work_pool_name:
                raise DeploymentError(
                    f"{definition.full_name} belongs to the work pool {found.work_pool_name}; "
                    "nothing was served. Start a worker of that pool, or delete the deployment "
                    "first."
                )
        deployments = await _make_deployments(client, cron, timezone, echo)
    await aserve(*deployments, pause_on_shutdown=False)


async def _make_deployments(
    client: PrefectClient,
    cron: str | None,
    timezone: str | None,
    echo: Echo,
    *,
    pool: str | None = None,
) -> list[RunnerDeployment]:
    deployments = []
    for definition in DEPLOYMENTS:
        name = definition.full_name
        try:
            blocks = {key: await _find_block(client, one) for key, one in definition.blocks.items()}
        except DeploymentError as error:
            if ACCOUNT not in definition.blocks.values():
                raise
            # Most users load one site and have no key of an account.
            echo(f"skipped   {name}: {error}")
            continue
        found = await find_deployment(client, name)
        keeps_schedule = found is not None and not (cron or timezone)
        deployment = await definition.flow.ato_deployment(
            definition.name,
            description=definition.description,
            parameters={**blocks, **definition.parameters},
            concurrency_limit=definition.concurrency_limit,
            triggers=list(definition.triggers),
            tags=TAGS,
            entrypoint_type=EntrypointType.MODULE_PATH,
            work_pool_name=pool,
            work_queue_name=definition.queue if pool else None,
            **({} if keeps_schedule else _schedule(definition, found, cron, timezone)),
        )
        if keeps_schedule:
            # Prefect sends only fields that are set; its empty list would delete them.
            deployment.model_fields_set.discard("schedules")
        deployments.append(deployment)
    return deployments


def _schedule(
    definition: Definition, found: DeploymentResponse | None, cron: str | None, timezone: str | None
) -> dict[str, Any]:
    if definition.cron is None:
        return {}
    is_active = found.schedules[0].active if found and found.schedules else definition.is_active
    times = cron if cron and definition.cron == DAILY else definition.cron
    zone = timezone or DEFAULT_TIMEZONE
    return {"schedule": Cron(times, timezone=zone, active=is_active)}


async def find_deployment(client: PrefectClient, name: str) -> DeploymentResponse | None:
    """The deployment with a name such as load-sessions/daily-load; None if there is none."""
    try:
        return await client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


async def _find_block(client: PrefectClient, slugs: tuple[str, ...]) -> dict[str, Any]:
    """A reference to the first block that exists."""
    for slug in slugs:
        block_type, _, name = slug.partition("/")
        try:
            document = await client.read_block_document_by_name(name, block_type)
        except ObjectNotFound:
            continue
        # By ID: the pickers of the run forms show nothing for a reference by slug.
        return {"$ref": {"block_document_id": str(document.id)}}
    raise DeploymentError(
        f"The server has no block {' or '.join(slugs)}. Run `prefect-wix setup` first."
    )

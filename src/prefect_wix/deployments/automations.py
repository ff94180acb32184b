"""Create or update the automations that watch the deployments.

Repeated runs are safe: an automation that was disabled in the UI stays disabled. A fired automation
is visible in the server's event feed; with a notification block it also sends a notification.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from prefect.automations import (
    AutomationCore,
    ChangeFlowRunState,
    DoNothing,
    EventTrigger,
    Posture,
    SendNotification,
)
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

from prefect_wix.errors import DeploymentError
from prefect_wix.tasks.events import LANDED_EVENT

A_DAY_AND_ITS_RETRIES = timedelta(hours=36)
"""Two runs of a daily schedule are within it."""
THREE_HEARTBEATS = timedelta(minutes=9)
"""Prefect sends a heartbeat of a flow run's process every three minutes."""

HEARTBEAT = "prefect.flow-run.heartbeat"
FAILED = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")}
OTHER_ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Cancelled")}
WIX_RUNS = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.wix"}

NOTIFICATION = """{{ automation.description }}
{% if flow_run %}{{ flow_run.name }}: {{ flow_run.state.message }}
{{ flow_run|ui_url }}
{% endif %}{{ firing.triggering_labels }}"""
"""The text of a notification, with the reason of the last failed run and a link to it."""
_COMPARED = {"description", "trigger", "actions"}

Action = SendNotification | DoNothing


def failed_twice(action: Action) -> AutomationCore:
    """Fires when two runs of one deployment fail: the second run did not repair the first."""
    return AutomationCore(
        name="wix: a deployment failed twice",
        description="Two runs of one deployment failed within 36 hours.",
        trigger=EventTrigger(
            expect=FAILED,
            match_related=WIX_RUNS,
            for_each={"related:deployment:prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=2,
            within=A_DAY_AND_ITS_RETRIES,
        ),
        actions=[action],
    )


def nothing_landed(action: Action) -> AutomationCore:
    """Fires when no sessions of a site land for 36 hours after some did."""
    return AutomationCore(
        name="wix: a day did not settle",
        description="No sessions of a site have landed for 36 hours.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "wix.site.*"},
            after={LANDED_EVENT},
            expect={LANDED_EVENT},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            within=A_DAY_AND_ITS_RETRIES,
        ),
        actions=[action],
    )


def run_died() -> AutomationCore:
    """Marks a run without heartbeats as crashed; otherwise it stays Running after a power loss."""
    return AutomationCore(
        name="wix: a run died",
        description="A run missed three heartbeats and is marked as crashed.",
        trigger=EventTrigger(
            match_related=WIX_RUNS,
            after={HEARTBEAT},
            expect={HEARTBEAT} | FAILED | OTHER_ENDS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            within=THREE_HEARTBEATS,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="The run missed three heartbeats. Landed partitions stay landed; the next "
                "run adopts its jobs.",
            )
        ],
    )


async def save_automations(
    block_slug: str | None = None, echo: Callable[[str], None] = print
) -> None:
    """Create the missing automations and update those that differ.

    Args:
        block_slug: the notification block that sends the notifications, such as
            slack-webhook/on-call.
        echo: receives one line for each automation.

    Raises:
        DeploymentError: the server has no such block.
    """
    async with get_client() as client:
        action = await _notification(client, block_slug) if block_slug else DoNothing()
        for automation in (failed_twice(action), nothing_landed(action), run_died()):
            await _save(client, automation, echo)


async def _notification(client: PrefectClient, block_slug: str) -> SendNotification:
    block_type, _, name = block_slug.partition("/")
    try:
        document = await client.read_block_document_by_name(name, block_type)
    except ObjectNotFound:
        raise DeploymentError(
            f"The server has no block {block_slug}; no automation was changed. Create the block in "
            "the UI under Blocks, and name it as type/name, such as slack-webhook/on-call."
        ) from None
    return SendNotification(
        block_document_id=document.id,
        subject="{{ automation.name }}",
        body=NOTIFICATION,
    )


async def _save(client: PrefectClient, new: AutomationCore, echo: Callable[[str], None]) -> None:
    found = await client.read_automations_by_name(new.name)
    if not found:
        await client.create_automation(new)
        echo(f"created   {new.name}")
        return
    current = found[0]
    # Validated from a full dump: an update omits fields that were not set, such as every type.
    new = AutomationCore.model_validate(
        new.model_dump(exclude={"owner_resource"}) | {"enabled": current.enabled}
    )
    if current.model_dump(include=_COMPARED) == new.model_dump(include=_COMPARED):
        echo(f"unchanged {new.name}")
        return
    await client.update_automation(current.id, new)
    echo(f"updated   {new.name}")

"""``python -m deployments.automations``: make or update what watches over the deployments.

Says what it did. Run it as often as you like: an automation that is switched off in the UI stays
off. Each one shows in the server's event feed when it fires; with ``--notify`` somebody is told.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
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

from prefect_wix.tasks.events import LANDED_EVENT

__all__ = ["failed_twice", "run_died", "save_automations", "site_is_silent"]

TWO_RUNS_OF_A_DAILY_SCHEDULE = timedelta(hours=36)
A_DAY_AND_ITS_RETRIES = timedelta(hours=36)
THREE_HEARTBEATS = timedelta(minutes=9)
"""Of a flow run's process: Prefect sends one every three minutes."""

HEARTBEAT = "prefect.flow-run.heartbeat"
ENDED_BADLY = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")}
ENDED_OTHERWISE = {f"prefect.flow-run.{state}" for state in ("Completed", "Cancelled")}
OUR_RUNS = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.wix"}

_COMPARED = {"description", "trigger", "actions"}

Tell = SendNotification | DoNothing


def failed_twice(tell: Tell) -> AutomationCore:
    """Two runs of one deployment ended badly: what a rerun heals has not been healed."""
    return AutomationCore(
        name="wix: a deployment failed twice",
        description="Two runs of one deployment failed within 36 hours.",
        trigger=EventTrigger(
            expect=ENDED_BADLY,
            match_related=OUR_RUNS,
            for_each={"related:deployment:prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=2,
            within=TWO_RUNS_OF_A_DAILY_SCHEDULE,
        ),
        actions=[tell],
    )


def site_is_silent(tell: Tell) -> AutomationCore:
    """A site whose sessions landed once has had no day land since: a day did not settle."""
    return AutomationCore(
        name="wix: a day did not settle",
        description="No sessions of a site have landed for 36 hours.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "wix.site.*"},
            after={LANDED_EVENT},
            expect={LANDED_EVENT},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=A_DAY_AND_ITS_RETRIES,
        ),
        actions=[tell],
    )


def run_died() -> AutomationCore:
    """A run whose machine died can't say so itself, and would be shown as running for ever."""
    return AutomationCore(
        name="wix: a run died",
        description="A run has not been heard of for three heartbeats: it is marked as crashed.",
        trigger=EventTrigger(
            match_related=OUR_RUNS,
            after={HEARTBEAT},
            expect={HEARTBEAT} | ENDED_BADLY | ENDED_OTHERWISE,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=THREE_HEARTBEATS,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="The run has not been heard of for three heartbeats. What landed stays "
                "landed; the next run takes up its jobs.",
            )
        ],
    )


async def save_automations(
    block_slug: str | None = None, say: Callable[[str], None] = print
) -> None:
    """Make the automations that are not there, and update those that differ.

    Args:
        block_slug: a notification block to tell people by, such as slack-webhook/on-call.
        say: where to say what was done.

    Raises:
        ValueError: there is no such block.
    """
    async with get_client() as client:
        tell = await _notification(client, block_slug) if block_slug else DoNothing()
        for automation in (failed_twice(tell), site_is_silent(tell), run_died()):
            await _save(client, automation, say)


async def _notification(client: PrefectClient, block_slug: str) -> SendNotification:
    block_type, _, name = block_slug.partition("/")
    try:
        document = await client.read_block_document_by_name(name, block_type)
    except ObjectNotFound:
        raise ValueError(
            f"There is no block {block_slug} on this server. Make it first, in the UI under "
            "Blocks, and name it as type/name, such as slack-webhook/on-call."
        ) from None
    return SendNotification(
        block_document_id=document.id,
        subject="{{ automation.name }}",
        body="{{ automation.description }}\n{{ firing.triggering_labels }}",
    )


async def _save(client: PrefectClient, wanted: AutomationCore, say: Callable[[str], None]) -> None:
    found = await client.read_automations_by_name(wanted.name)
    if not found:
        await client.create_automation(wanted)
        say(f"made      {wanted.name}")
        return
    there = found[0]
    # Validated from the whole, since an update leaves out what was not set, such as every type.
    wanted = AutomationCore.model_validate(
        wanted.model_dump(exclude={"owner_resource"}) | {"enabled": there.enabled}
    )
    if there.model_dump(include=_COMPARED) == wanted.model_dump(include=_COMPARED):
        say(f"unchanged {wanted.name}")
        return
    await client.update_automation(there.id, wanted)
    say(f"updated   {wanted.name}")


def main() -> int:
    """Read the notification block from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notify", metavar="TYPE/NAME", help="a notification block to tell by")
    try:
        asyncio.run(save_automations(parser.parse_args().notify))
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

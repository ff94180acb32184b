"""``python -m deployments.automations``, on a real server."""

from __future__ import annotations

import pytest
from prefect.automations import Automation, DoNothing
from prefect.blocks.notifications import CustomWebhookNotificationBlock

from deployments.automations import failed_twice, run_died, save_automations, site_is_silent

NAMES = [failed_twice(DoNothing()).name, site_is_silent(DoNothing()).name, run_died().name]


@pytest.fixture
async def said():
    """What the program says; nothing is there before, and nothing is left."""
    await remove()
    yield []
    await remove()


async def remove():
    for name in NAMES:
        try:
            await (await Automation.aread(name=name)).adelete()
        except ValueError:
            continue


async def test_the_server_has_what_was_asked_for(said):
    """Read back, each automation has the trigger it was made with, and is on."""
    await save_automations(say=said.append)
    assert said == [f"made      {name}" for name in NAMES]
    for wanted in (failed_twice(DoNothing()), site_is_silent(DoNothing()), run_died()):
        there = await Automation.aread(name=wanted.name)
        assert (there.trigger, there.actions, there.enabled) == (
            wanted.trigger, wanted.actions, True,
        )  # fmt: skip


async def test_a_second_time_changes_nothing(said):
    """It says so, and there are no twins."""
    await save_automations(say=said.append)
    said.clear()
    await save_automations(say=said.append)
    assert said == [f"unchanged {name}" for name in NAMES]


async def test_what_was_changed_is_put_right_and_what_was_switched_off_stays_off(said):
    """An automation that a person switched off in the UI is not switched on behind their back."""
    await save_automations(say=said.append)
    there = await Automation.aread(name=NAMES[0])
    await there.adisable()
    block = CustomWebhookNotificationBlock(name="on call", url="http://127.0.0.1:9/")
    await block.asave("on-call", overwrite=True)
    said.clear()
    await save_automations("custom-webhook/on-call", say=said.append)
    assert said == [f"updated   {NAMES[0]}", f"updated   {NAMES[1]}", f"unchanged {NAMES[2]}"]
    there = await Automation.aread(name=NAMES[0])
    assert not there.enabled
    assert there.actions[0].type == "send-notification"


async def test_a_block_that_is_not_there_is_named(said):
    """One sentence, and nothing is made."""
    with pytest.raises(
        ValueError, match=r"There is no block slack-webhook/nobody on this server\."
    ):
        await save_automations("slack-webhook/nobody", say=said.append)
    assert said == []

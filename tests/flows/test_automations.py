"""``prefect-wix automations``, on a real server."""

from __future__ import annotations

from uuid import uuid4

import pytest
from prefect.automations import Automation, DoNothing
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.server.events.jinja_filters import all_filters
from prefect.server.schemas.responses import FlowRunResponse
from prefect.server.schemas.states import Failed
from prefect.server.utilities.user_templates import (
    register_user_template_filters,
    render_user_template_sync,
)
from prefect.settings import PREFECT_UI_URL, temporary_settings

from prefect_wix.deployments.automations import (
    NOTIFICATION,
    failed_twice,
    nothing_landed,
    run_died,
    save_automations,
)
from prefect_wix.errors import DeploymentError

NAMES = [failed_twice(DoNothing()).name, nothing_landed(DoNothing()).name, run_died().name]


@pytest.fixture
async def lines():
    """The lines that the program prints; automations are deleted before and after the test."""
    await remove()
    yield []
    await remove()


async def remove():
    for name in NAMES:
        try:
            await (await Automation.aread(name=name)).adelete()
        except ValueError:
            continue


async def test_the_automations_are_created_on_the_server(lines):
    """Read back, each automation has its trigger and its actions, and is enabled."""
    await save_automations(echo=lines.append)
    assert lines == [f"created   {name}" for name in NAMES]
    for expected in (failed_twice(DoNothing()), nothing_landed(DoNothing()), run_died()):
        found = await Automation.aread(name=expected.name)
        assert (found.trigger, found.actions, found.enabled) == (
            expected.trigger, expected.actions, True,
        )  # fmt: skip


async def test_a_second_run_changes_nothing(lines):
    """It reports each automation as unchanged and creates no duplicates."""
    await save_automations(echo=lines.append)
    lines.clear()
    await save_automations(echo=lines.append)
    assert lines == [f"unchanged {name}" for name in NAMES]


async def test_changed_automations_are_updated_and_disabled_ones_stay_disabled(lines):
    """An update does not enable an automation that was disabled in the UI."""
    await save_automations(echo=lines.append)
    automation = await Automation.aread(name=NAMES[0])
    await automation.adisable()
    block = CustomWebhookNotificationBlock(name="on call", url="http://127.0.0.1:9/")
    await block.asave("on-call", overwrite=True)
    lines.clear()
    await save_automations("custom-webhook/on-call", echo=lines.append)
    assert lines == [f"updated   {NAMES[0]}", f"updated   {NAMES[1]}", f"unchanged {NAMES[2]}"]
    automation = await Automation.aread(name=NAMES[0])
    assert not automation.enabled
    assert automation.actions[0].type == "send-notification"


async def test_an_unknown_notification_block_is_rejected(lines):
    """The error names the block, and no automation is created."""
    with pytest.raises(DeploymentError, match=r"The server has no block slack-webhook/missing;"):
        await save_automations("slack-webhook/missing", echo=lines.append)
    assert lines == []


def test_a_notification_has_the_reason_of_the_failure_and_a_link_to_the_run():
    """Rendered as the server does it; an alert without a run has neither."""
    register_user_template_filters(all_filters)
    run = FlowRunResponse(
        id=uuid4(), flow_id=uuid4(), name="load 7 days of site-1", state=Failed(message="The cause")
    )
    context = {"automation": failed_twice(DoNothing()), "firing": None}
    with temporary_settings({PREFECT_UI_URL: "http://ui"}):
        text = render_user_template_sync(NOTIFICATION, context | {"flow_run": run})
    assert f"load 7 days of site-1: The cause\nhttp://ui/runs/flow-run/{run.id}\n" in text
    assert "None" not in render_user_template_sync(NOTIFICATION, context)

"""What each deployment of this package is: its flow, blocks, parameters, schedule and trigger.

To add a deployment: an entry in `DEPLOYMENTS`. How they get onto a Prefect server is in
`prefect_wix.deployments.registration`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.events import DeploymentEventTrigger

from prefect_wix.flows.list_sessions import list_sessions
from prefect_wix.flows.load_sessions import load_sessions
from prefect_wix.flows.load_sites import load_sites
from prefect_wix.flows.mark_recordings import mark_recordings
from prefect_wix.flows.profile_sessions import profile_sessions
from prefect_wix.planning.plan import Refresh, WhenTooBig
from prefect_wix.planning.segments import PROFILED
from prefect_wix.tasks.events import LANDED_EVENT

TAGS = ["wix"]
CREDENTIALS = ("wix-credentials/wix", "wix-app-credentials/wix-app")
WAREHOUSE = ("wix-sessions-warehouse/sessions",)
ACCOUNT = ("wix-account-credentials/wix-account",)
DAILY = "0 4 * * *"
HOURLY = "30 * * * *"
BACKFILL_QUEUE = "backfill"
"""A queue that is created after the default queue has a lower priority: scheduled runs precede."""
AFTER_LOAD = DeploymentEventTrigger(
    name="wix: profile what landed",
    match={"prefect.resource.id": "wix.site.*"},
    expect={LANDED_EVENT},
    parameters={
        name: f"{{{{ event.payload.{name} }}}}"
        for name in ("site_id", "start_date", "end_date", "timezone")
    },
)


@dataclass(frozen=True)
class Definition:
    """One deployment.

    Attributes:
        flow: the flow.
        name: the deployment's name; different from all others of this package.
        description: what it is for, shown in the UI.
        blocks: parameter -> slugs of block documents, of which the first that exists is used.
        parameters: the other parameters that differ from the flow's defaults.
        cron: None without a schedule; ``prefect-wix deploy --cron`` replaces a daily one.
        is_active: whether its schedule is active.
        concurrency_limit: how many of its runs may run at once; None for any number. Two loads of
            one site would submit every job twice, and two markings send every ID twice.
        queue: the work queue in the pool; None for the default queue.
        triggers: the events that start a run.
    """

    flow: Flow[..., Any]
    name: str
    description: str
    blocks: Mapping[str, tuple[str, ...]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    cron: str | None = None
    is_active: bool = False
    concurrency_limit: int | ConcurrencyLimitConfig | None = None
    queue: str | None = None
    triggers: tuple[DeploymentEventTrigger, ...] = ()

    @property
    def full_name(self) -> str:
        """The flow's name and the deployment's name, as on the command line of Prefect."""
        return f"{self.flow.name}/{self.name}"


_SITE = {"credentials": CREDENTIALS, "warehouse": WAREHOUSE}
_SITES = {"account": ACCOUNT, "warehouse": WAREHOUSE}
DEPLOYMENTS = (
    Definition(
        list_sessions,
        "ad-hoc-list",
        "Lists the sessions of one query; started from the run form.",
        {"credentials": CREDENTIALS},
    ),
    Definition(
        load_sessions,
        "daily-load",
        "Loads the complete local days of the last week, every morning; gaps first.",
        _SITE,
        {
            "days": 7,
            "segments": [segment.key for segment in PROFILED],
            # No guard that only a person can lift stops a schedule.
            "when_too_big": WhenTooBig.PARTIAL.value,
        },
        cron=DAILY,
        is_active=True,
        concurrency_limit=1,
    ),
    Definition(
        load_sessions,
        "hourly-today",
        "Loads the running day every hour, and yesterday once it is over; off until switched on.",
        _SITE,
        {
            "days": 1,
            "include_today": True,
            # The daily load takes what comes late.
            "refresh": Refresh.MISSING.value,
            "when_too_big": WhenTooBig.PARTIAL.value,
        },
        cron=HOURLY,
        # A run that takes longer than an hour is left alone.
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
    ),
    Definition(
        load_sessions,
        "backfill",
        "Loads the missing days of a range; started from the run form, safe to repeat.",
        _SITE,
        # Landed days are not loaded again, so a stopped backfill can be continued.
        {"days": 30, "refresh": Refresh.MISSING.value, "confirm": False},
        concurrency_limit=1,
        queue=BACKFILL_QUEUE,
    ),
    Definition(
        profile_sessions,
        "after-load",
        "Profiles the sessions that just landed and checks their days for completeness.",
        _SITE,
        {"days": 7},
        concurrency_limit=1,
        triggers=(AFTER_LOAD,),
    ),
    Definition(
        mark_recordings,
        "ad-hoc-marks",
        "Marks sessions as recorded, or recordings as deleted; started from the run form.",
        _SITE,
        {"confirm": False},
        concurrency_limit=1,
    ),
    Definition(
        load_sites,
        "daily-sites",
        "Loads every site of the account, in runs of load-sites/some-sites.",
        _SITES,
        {"load": {"days": 7}, "deployment": "load-sites/some-sites"},
        # Inactive: with load-sessions/daily-load active, it would load that site twice.
        cron=DAILY,
        concurrency_limit=1,
    ),
    Definition(
        load_sites,
        "some-sites",
        "Loads sites of the account; started by load-sites/daily-sites or from the run form.",
        _SITES,
    ),
)

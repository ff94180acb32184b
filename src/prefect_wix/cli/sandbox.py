"""The command that runs a local Wix until Ctrl-C or SIGTERM."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated
from zoneinfo import available_timezones

from cyclopts import Parameter
from cyclopts.validators import Number

from prefect_wix.sandbox import Fault, Rules, World, running

if TYPE_CHECKING:
    from prefect_wix.sandbox import Sandbox

Count = Annotated[int, Parameter(validator=Number(gte=0))]
Port = Annotated[int, Parameter(validator=Number(gte=0, lte=65_535))]

WIX_REQUESTS_PER_MINUTE = 200
"""The rate limit that Wix documents for one app instance."""
_TITLE = "# Wix sandbox at "


def sandbox(
    *,
    env_file: Path | None = None,
    host: str = "127.0.0.1",
    port: Port = 8765,
    seed: int = 7,
    sessions: Count = 30_000,
    days: Count = 90,
    timezone: str = "Asia/Jerusalem",
    events: Path | None = None,
    sites: Count = 1,
    job_seconds: str = "0.5",
    requests_per_minute: Count = WIX_REQUESTS_PER_MINUTE,
    fault: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    rule: Annotated[tuple[str, ...], Parameter(negative=())] = (),
) -> None:
    """Run a local server with Wix's Analytics Sessions API until Ctrl-C or SIGTERM.

    Args:
        env_file: Write the settings to this file, such as .env, and not to the terminal.
        host: The address to listen on.
        port: The port to listen on; 0 for any free port.
        seed: The seed of the credentials, the sessions and the faults.
        sessions: The number of sessions.
        days: The number of days with sessions, up to today.
        timezone: The IANA time zone of the site.
        events: Read the sessions from a click-stream (.csv or .csv.gz).
        sites: The number of sites of the account; only the first has sessions.
        job_seconds: The duration of a job: 0.5, or a range such as 0.2-2.0.
        requests_per_minute: The rate limit of each site; 0 for no limit.
        fault: A fault to inject, such as slow:seconds=2. May be repeated.
        rule: An assumption where Wix documents nothing, such as page_cap=100; an unknown name lists
            all with their defaults. May be repeated.
    """
    if timezone not in available_timezones():
        raise ValueError(f"{timezone!r} is not an IANA time zone, such as Asia/Jerusalem.")
    _check_replaceable(env_file)
    rules = Rules.parse(rule)
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    world = (
        World.from_events(events, timezone=timezone)
        if events
        else World.generate(seed, sessions=sessions, days=days, timezone=timezone)
    )
    with running(
        world,
        faults=list(map(Fault.parse, fault)),
        rules=rules,
        job_seconds=_seconds(job_seconds),
        requests_per_minute=requests_per_minute or None,
        seed=seed,
        sites=sites,
        host=host,
        port=port,
    ) as server:
        _show(server, env_file)
        while not stop.wait(0.5):  # on some systems, Ctrl-C does not interrupt an endless wait
            pass


def _show(server: Sandbox, env_file: Path | None) -> None:
    world, sites = server.world, len(server.worlds)
    title = (
        f"{_TITLE}{server.url} with {len(world):,} sessions ({world.timezone}) "
        f"and {sites} site{'s' * (sites != 1)}. Press Ctrl-C to stop it."
    )
    # The names that `prefect_wix.blocks.documents` reads.
    settings = {
        "WIX_BASE_URL": server.url,
        "WIX_API_KEY": server.api_key,
        "WIX_SITE_ID": server.site_id,
        "WIX_ACCOUNT_API_KEY": server.api_key,
        "WIX_ACCOUNT_ID": server.account_id,
        "WIX_APP_ID": server.app_id,
        "WIX_APP_SECRET": server.app_secret,
        "WIX_INSTANCE_ID": server.instance_id,
    }
    text = "\n".join([title, *(f"{name}={value}" for name, value in settings.items())])
    if env_file is None:
        print(text, flush=True)  # noqa: T201
        return
    # A new file, which only its owner can read.
    env_file.unlink(missing_ok=True)
    file = os.open(env_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        opened.write(f"{text}\n")
    print(f"{title.removeprefix('# ')} Its settings are in {env_file}.", flush=True)  # noqa: T201


def _check_replaceable(env_file: Path | None) -> None:
    """Reject a file that holds settings that no sandbox wrote.

    Raises:
        FileExistsError: the file exists, and no sandbox wrote it.
    """
    if env_file and env_file.exists() and not env_file.read_text().startswith(_TITLE):
        raise FileExistsError(
            f"{env_file} exists and has other settings than a sandbox's; it was not changed. "
            "Move it away, or choose another name."
        )


def _seconds(text: str) -> tuple[float, float]:
    least, _, most = text.partition("-")
    try:
        return float(least), float(most or least)
    except ValueError:
        raise ValueError(f"{text!r} is neither seconds nor a range such as 0.2-2.0.") from None

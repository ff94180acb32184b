"""The command `python -m prefect_wix.sandbox`: serve a sandbox until it is told to stop."""

from __future__ import annotations

import argparse
import signal
from threading import Event
from typing import TYPE_CHECKING
from zoneinfo import available_timezones

from prefect_wix.sandbox.faults import Fault
from prefect_wix.sandbox.server import running
from prefect_wix.sandbox.world import World

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from prefect_wix.sandbox.sandbox import Sandbox

WIX_REQUESTS_PER_MINUTE = 200
"""Wix's documented budget of a site."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM. Exits with 2 if the arguments are no good."""
    parser = _parser()
    told = parser.parse_args(arguments)
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        _serve(told, stop)
    except (OSError, OverflowError, ValueError) as error:
        parser.error(str(error))


def _serve(told: argparse.Namespace, stop: Event) -> None:
    with running(
        _world(told),
        faults=told.fault,
        job_seconds=told.job_seconds,
        requests_per_minute=told.requests_per_minute or None,
        seed=told.seed,
        sites=told.sites,
        host=told.host,
        port=told.port,
    ) as sandbox:
        print(_welcome(sandbox), flush=True)  # noqa: T201
        while not stop.wait(0.5):  # a wait without end would not notice Ctrl-C on every system
            pass


def _world(told: argparse.Namespace) -> World:
    if told.events:
        return World.from_events(told.events, timezone=told.timezone)
    return World.generate(told.seed, sessions=told.sessions, days=told.days, timezone=told.timezone)


def _welcome(sandbox: Sandbox) -> str:
    """What was started, as a ``.env`` file: the settings that `python -m blocks` reads."""
    world, sites = sandbox.world, len(sandbox.worlds)
    greeting = (
        f"# A sandbox Wix with {len(world):,} sessions ({world.timezone}) and {sites} site(s) "
        f"listens at {sandbox.url} until Ctrl-C."
    )
    return "\n".join(
        (
            greeting,
            f"WIX_BASE_URL={sandbox.url}",
            f"WIX_API_KEY={sandbox.api_key}",
            f"WIX_SITE_ID={sandbox.site_id}",
            f"WIX_ACCOUNT_ID={sandbox.account_id}",
            f"WIX_APP_ID={sandbox.app_id}",
            f"WIX_APP_SECRET={sandbox.app_secret}",
            f"WIX_INSTANCE_ID={sandbox.instance_id}",
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m prefect_wix.sandbox",
        description="A local Wix that plays the Analytics Sessions API.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at")
    add("--port", type=int, default=8765, help="port to listen at, 0 for any free one")
    add("--seed", type=int, default=7, help="the same seed makes the same sandbox")
    add("--sessions", type=_whole, default=30_000, help="how many sessions")
    add("--days", type=_whole, default=90, help="how many days they spread over, up to today")
    add("--timezone", type=_zone, default="Asia/Jerusalem", help="the site's IANA time zone")
    add("--events", metavar="FILE", help="a click-stream (.csv, .csv.gz) instead of made-up visits")
    add("--sites", type=_whole, default=1, help="sites in the account; all but the first are empty")
    add("--job-seconds", type=_seconds, default="0.5", help="how long a job takes: 0.5 or 0.2-2.0")
    add(
        "--requests-per-minute",
        type=_whole,
        default=WIX_REQUESTS_PER_MINUTE,
        help="each site's budget, 0 for no limit",
    )
    add(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="KIND[:KEY=VALUE,...]",
        help="something that goes wrong, such as server_error:rate=0.1 (may be repeated)",
    )
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one sentence, without the whole usage."""
        self.exit(2, f"The sandbox cannot start: {message} (see --help).\n")


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _seconds(text: str) -> tuple[float, float]:
    least, _, most = text.partition("-")
    try:
        return float(least), float(most or least)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither seconds nor a range such as 0.2-2.0"
        ) from None


def _zone(text: str) -> str:
    if text not in available_timezones():
        raise argparse.ArgumentTypeError(f"{text!r} is not an IANA time zone")
    return text


def _fault(text: str) -> Fault:
    try:
        return Fault.parse(text)
    except (ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    main()

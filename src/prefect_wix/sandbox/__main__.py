"""The command `python -m prefect_wix.sandbox`: run a sandbox until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
from threading import Event
from typing import TYPE_CHECKING
from zoneinfo import available_timezones

from prefect_wix.sandbox.faults import KINDS, Fault
from prefect_wix.sandbox.server import running
from prefect_wix.sandbox.world import World

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from prefect_wix.sandbox.sandbox import Sandbox

WIX_REQUESTS_PER_MINUTE = 200
"""The rate limit that Wix documents for one app instance."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a sandbox until Ctrl-C or SIGTERM. Exit with code 2 if an argument is invalid."""
    parser = _parser()
    args = parser.parse_args(arguments)
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        _serve(args, stop)
    except (OSError, OverflowError, ValueError) as error:
        parser.error(str(error))


def _serve(args: argparse.Namespace, stop: Event) -> None:
    with running(
        _world(args),
        faults=args.fault,
        job_seconds=args.job_seconds,
        requests_per_minute=args.requests_per_minute or None,
        seed=args.seed,
        sites=args.sites,
        host=args.host,
        port=args.port,
    ) as sandbox:
        print(_settings(sandbox), flush=True)  # noqa: T201
        while not stop.wait(0.5):  # on some systems, Ctrl-C does not interrupt an endless wait
            pass


def _world(args: argparse.Namespace) -> World:
    if args.events:
        return World.from_events(args.events, timezone=args.timezone)
    return World.generate(args.seed, sessions=args.sessions, days=args.days, timezone=args.timezone)


def _settings(sandbox: Sandbox) -> str:
    """The address and credentials as a ``.env`` file, with the names that `blocks` reads."""
    world, sites = sandbox.world, len(sandbox.worlds)
    title = (
        f"# Wix sandbox at {sandbox.url} with {len(world):,} sessions ({world.timezone}) "
        f"and {sites} site{'s' * (sites != 1)}. Press Ctrl-C to stop it."
    )
    return "\n".join(
        (
            title,
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
        description="Run a local server with Wix's Analytics Sessions API.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8765, help="port to listen on, 0 for any free port")
    add("--seed", type=int, default=7, help="seed of the credentials, the sessions and the faults")
    add("--sessions", type=_integer, default=30_000, help="number of sessions")
    add("--days", type=_integer, default=90, help="number of days with sessions, up to today")
    add("--timezone", type=_timezone, default="Asia/Jerusalem", help="IANA time zone of the site")
    add("--events", metavar="FILE", help="read sessions from a click-stream (.csv or .csv.gz)")
    add("--sites", type=_integer, default=1, help="number of sites; only the first has sessions")
    add("--job-seconds", type=_seconds, default="0.5", help="duration of a job: 0.5 or 0.2-2.0")
    add(
        "--requests-per-minute",
        type=_integer,
        default=WIX_REQUESTS_PER_MINUTE,
        help="rate limit of each site, 0 for no limit",
    )
    add(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="KIND[:KEY=VALUE,...]",
        help=f"fault to inject, such as slow:seconds=2 (may be repeated): {', '.join(KINDS)}",
    )
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print the error as one sentence, without the usage."""
        self.exit(2, f"The sandbox cannot start: {message} (see --help).\n")


def _integer(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _seconds(text: str) -> tuple[float, float]:
    least, _, most = text.partition("-")
    try:
        return float(least), float(most or least)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither seconds nor a range such as 0.2-2.0"
        ) from None


def _timezone(text: str) -> str:
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

"""The entry point of ``prefect-wix`` and its list of commands.

Each command is imported when it is called, so that ``--help`` is fast and does nothing else.
"""

from __future__ import annotations

import sys

from cyclopts import App
from httpx import HTTPStatusError, RequestError

from prefect_wix import __version__
from prefect_wix.errors import WixError

app = App(
    name="prefect-wix",
    help="Load the session IDs of Wix analytics into a warehouse with Prefect.",
    version=__version__,
)
_COMMANDS = {
    "demo": ("demo:demo", "Load 30 days of a sandbox shop into a DuckDB file, without an account."),
    "sandbox": ("sandbox:sandbox", "Run a local Wix until Ctrl-C."),
    "init": ("project:init", "Copy the starter project into a folder."),
    "setup": ("server:setup", "Save block types, blocks and rate limits on the Prefect server."),
    "check": ("check:check", "Check everything that a load needs, and say what to do."),
    "deploy": ("server:deploy", "Create or update the deployments for the workers of a pool."),
    "serve": ("server:serve", "Execute the deployments in this process, without a worker."),
    "status": ("status:status", "Show what is landed, missing or failed, by day and segment."),
    "forget": ("forget:forget", "Erase session IDs: of a site, of old days, or in a list."),
    "automations": ("server:automations", "Create or update the automations that watch runs."),
}
_LISTS_COMMANDS = len(sys.argv) < 2 or sys.argv[1].startswith("-")  # noqa: PLR2004
for _name, (_function, _help) in _COMMANDS.items():
    # The help of a command itself is its docstring, which this line would replace.
    _line = _help if _LISTS_COMMANDS else None
    app.command(f"prefect_wix.cli.{_function}", name=_name, help=_line)


def main() -> None:
    """Run the command; an expected error ends it with one sentence and exit code 1."""
    try:
        app()
    except (WixError, OSError, ValueError) as error:
        sys.exit(str(error))
    except HTTPStatusError as error:
        # Its text has the URL, which may have a password.
        status = error.response.status_code
        sys.exit(
            f"The Prefect server returned {status}. Check PREFECT_API_URL and PREFECT_API_KEY."
        )
    except RequestError as error:
        sys.exit(f"The Prefect server does not respond ({error}). Check PREFECT_API_URL.")


if __name__ == "__main__":
    main()

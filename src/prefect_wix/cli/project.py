"""The command that copies the starter project: flows, blocks and deployments to edit."""

from __future__ import annotations

import shutil
from pathlib import Path

import prefect_wix

FOLDERS = ("flows", "blocks", "deployments")
_SKIPPED = shutil.ignore_patterns("__pycache__", "target", "logs")


def init(folder: Path = Path()) -> None:
    """Copy the starter project into a folder: flows/, blocks/ and deployments/.

    Args:
        folder: The folder, which is created if it does not exist. It must have none of the three.
    """
    # In the wheel, or the root of a checkout.
    package = Path(prefect_wix.__file__).parent
    in_wheel = package / "starter"
    source = in_wheel if in_wheel.is_dir() else package.parents[1]
    if taken := [str(folder / name) for name in FOLDERS if (folder / name).exists()]:
        raise FileExistsError(f"{taken[0]} already exists; nothing was copied. Use a new folder.")
    for name in FOLDERS:
        shutil.copytree(source / name, folder / name, ignore=_SKIPPED)
    print(f"Copied {', '.join(FOLDERS)} to {folder.resolve()}. Read flows/README.md next.")  # noqa: T201

"""The command that copies the starter project: flows, blocks and deployments to edit."""

from __future__ import annotations

import shutil
from pathlib import Path

import prefect_wix

FOLDERS = ("flows", "blocks", "deployments")
_SKIPPED = {"__pycache__", "target", "logs"}


def init(folder: Path = Path()) -> None:
    """Copy the starter project into a folder: flows/, blocks/ and deployments/.

    Args:
        folder: The folder, which is created if it does not exist. No existing file is replaced.
    """
    # In the wheel, or the root of a checkout.
    package = Path(prefect_wix.__file__).parent
    in_wheel = package / "starter"
    source = in_wheel if in_wheel.is_dir() else package.parents[1]
    files = [
        path.relative_to(source)
        for name in FOLDERS
        for path in sorted((source / name).rglob("*"))
        if path.is_file() and not _SKIPPED & set(path.parts)
    ]
    taken = [str(folder / file) for file in files if (folder / file).exists()]
    if taken:
        raise FileExistsError(f"{taken[0]} already exists; nothing was copied. Use a new folder.")
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / file, folder / file)
    print(f"Copied {len(files)} files to {folder.resolve()}. Read flows/README.md next.")  # noqa: T201

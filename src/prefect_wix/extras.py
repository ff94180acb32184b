"""Packages that a feature needs and the core does not: imported here, or one clear sentence."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from prefect_wix.errors import MissingExtraError

__all__ = ["import_extra"]


def import_extra(module: str, *, extra: str, what_for: str) -> Any:
    """The module, or the command that installs it.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{what_for} needs the package {module}. Run: pip install 'prefect-wix[{extra}]'"
        ) from error

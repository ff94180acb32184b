"""Import of optional packages, with the install command in the error message."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from prefect_wix.errors import MissingExtraError


def import_extra(module: str, *, extra: str, what_for: str) -> Any:
    """The imported module.

    Args:
        module: the module's name.
        extra: the extra of prefect-wix that installs it.
        what_for: the feature that needs it, as the subject of the error message.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{what_for} needs the package {module}. Run: pip install 'prefect-wix[{extra}]'"
        ) from error

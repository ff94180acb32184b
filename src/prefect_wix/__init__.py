"""Prefect integration for Wix's Analytics Sessions API.

The names that flows use: models and blocks. Each is imported on first use, so that
`prefect_wix.client` and `prefect_wix.jobs` work, and import fast, without Prefect.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_wix.blocks.credentials import (
        WixAccountCredentials,
        WixAppCredentials,
        WixCredentials,
    )
    from prefect_wix.blocks.warehouse import SessionsWarehouse
    from prefect_wix.client.models import DeviceType, FunnelStep, Period, SessionsJob, SessionsQuery

__all__ = [
    "DeviceType",
    "FunnelStep",
    "Period",
    "SessionsJob",
    "SessionsQuery",
    "SessionsWarehouse",
    "WixAccountCredentials",
    "WixAppCredentials",
    "WixCredentials",
]
__version__ = "0.1.0"

_EXPORTS = {
    "prefect_wix.blocks": (
        "SessionsWarehouse",
        "WixAccountCredentials",
        "WixAppCredentials",
        "WixCredentials",
    ),
    "prefect_wix.client.models": (
        "DeviceType",
        "FunnelStep",
        "Period",
        "SessionsJob",
        "SessionsQuery",
    ),
}


def __getattr__(name: str) -> Any:
    for module, names in _EXPORTS.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

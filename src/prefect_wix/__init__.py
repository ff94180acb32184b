"""Wix analytics sessions for Prefect: ask for them, wait for them, land them exactly once.

The names a flow needs. Each is imported when it is first used, so that `prefect_wix.client` and
`prefect_wix.jobs.listing` work, and import fast, without Prefect.
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

_HOMES = {
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
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

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

_MODELS = {"DeviceType", "FunnelStep", "Period", "SessionsJob", "SessionsQuery"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "prefect_wix.client.models" if name in _MODELS else "prefect_wix.blocks"
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

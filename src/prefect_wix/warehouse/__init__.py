"""Where sessions land: one small interface, one file per engine.

`open_warehouse` picks the engine from a URL. Nothing here knows Prefect or speaks HTTP to Wix.
"""

from __future__ import annotations

from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.interface import Claim, PublishResult, VerifiedListing, Warehouse

__all__ = ["Claim", "PublishResult", "VerifiedListing", "Warehouse", "open_warehouse"]

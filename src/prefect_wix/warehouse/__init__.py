"""Storage of verified listings: one interface, one module per engine.

`open_warehouse` selects the engine from a URL. Requests to Wix are in `prefect_wix.client`, jobs in
`prefect_wix.jobs`, loads of many partitions in `prefect_wix.load`.
"""

from __future__ import annotations

from prefect_wix.warehouse.factory import open_warehouse
from prefect_wix.warehouse.interface import Claim, PublishResult, VerifiedListing, Warehouse

__all__ = ["Claim", "PublishResult", "VerifiedListing", "Warehouse", "open_warehouse"]

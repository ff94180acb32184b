"""Prefect blocks: credentials, the warehouse, and the site's limit on the Prefect server."""

from prefect_wix.blocks.credentials import (
    AnyWixCredentials,
    WixAccountCredentials,
    WixAppCredentials,
    WixCredentials,
)
from prefect_wix.blocks.warehouse import SessionsWarehouse

__all__ = [
    "AnyWixCredentials",
    "SessionsWarehouse",
    "WixAccountCredentials",
    "WixAppCredentials",
    "WixCredentials",
]

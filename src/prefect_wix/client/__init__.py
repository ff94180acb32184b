"""The Wix API over httpx: authentication, one method per endpoint, responses, rate limiter.

Polling a job and reading all of its pages are in `prefect_wix.jobs`.
"""

from prefect_wix.client.auth import AccountKeyAuth, ApiKeyAuth, AppAuth
from prefect_wix.client.client import BASE_URL, WixClient

__all__ = ["BASE_URL", "AccountKeyAuth", "ApiKeyAuth", "AppAuth", "WixClient"]

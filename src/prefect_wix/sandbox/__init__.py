"""A local HTTP server with Wix's Analytics Sessions API and switchable faults.

It needs no Wix account. It holds the complete data, so a test can verify what a client received.
It is written from the documentation and shares no code with the client.
"""

from prefect_wix.sandbox.faults import Fault
from prefect_wix.sandbox.rules import Rules
from prefect_wix.sandbox.sandbox import Sandbox
from prefect_wix.sandbox.server import running
from prefect_wix.sandbox.sessions import Session
from prefect_wix.sandbox.world import World

__all__ = ["Fault", "Rules", "Sandbox", "Session", "World", "running"]

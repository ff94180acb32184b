"""A local Wix: a real HTTP server that plays the Analytics Sessions API, with switchable faults.

It needs no account and knows the truth, so it can tell whether what a client received is right.
It is written from the documentation alone and shares no code with the client.
"""

from prefect_wix.sandbox.faults import Fault
from prefect_wix.sandbox.rules import Rules
from prefect_wix.sandbox.sandbox import Sandbox
from prefect_wix.sandbox.server import running
from prefect_wix.sandbox.sessions import Session
from prefect_wix.sandbox.world import World

__all__ = ["Fault", "Rules", "Sandbox", "Session", "World", "running"]

"""What landed ids mean: session profiles, completeness certificates, and the summary of both.

Computed from landed partitions, inside the warehouse. Nothing here knows Prefect or speaks HTTP.
"""

from __future__ import annotations

__all__ = ()

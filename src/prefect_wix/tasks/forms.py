"""What a run form knows of a value: patterns that a wrong one is refused by before there is a run.

They are notes in the schema of a flow's parameters and check nothing in Python: there the code that
reads the value says, in a sentence, what is wrong with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from prefect_wix.client.models import DeviceType, FunnelStep

__all__ = ["IdFile", "ListingFile", "NavigationFlow", "ReportFile", "SegmentKeys", "Timezone"]


def _form(**notes: Any) -> Any:
    return Field(json_schema_extra=notes)


_DEVICE = "|".join(DeviceType)
_STEP = "|".join(FunnelStep)
_FUNNEL = rf"(\+({_STEP}))?(-({_STEP}))?"
_FLOW = "navigation_flow=.+"

SegmentKey = Annotated[
    str, _form(pattern=f"^(device_type=({_DEVICE})|conversion_funnel=(?=.){_FUNNEL}|{_FLOW})$")
]
SegmentKeys = Annotated[list[SegmentKey], _form(minItems=1)]
"""One segment or more; see `prefect_wix.planning.segments`."""
NavigationFlow = Annotated[str, _form(pattern=f"^{_FLOW}$")]
"""The key of a segment that is a page flow."""
Timezone = Annotated[str, _form(pattern="^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$", maxLength=100)]
"""An IANA name, as far as its letters go."""
ListingFile = Annotated[Path, _form(pattern=r"\.(csv|jsonl|ndjson|parquet)$")]
"""A file that a listing can be written to; see `prefect_wix.jobs.writers`."""
IdFile = Annotated[Path, _form(pattern=r"\.(csv|jsonl|ndjson|parquet|txt)$")]
"""A file that ids can be read from; see `prefect_wix.load.id_source`."""
ReportFile = Annotated[Path, _form(pattern=r"\.html$")]
"""A file that a report can be written to; see `prefect_wix.profiles.report`."""

"""Parameter types whose JSON schema has patterns, so that a run form rejects invalid values.

The patterns are part of the flow's parameter schema only. In Python nothing but the time zone is
checked here: the code that reads the value raises an error that explains what is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from prefect_wix.client.models import DeviceType, FunnelStep, check_timezone


def _form(**schema: Any) -> Any:
    return Field(json_schema_extra=schema)


_DEVICE = "|".join(DeviceType)
_STEP = "|".join(FunnelStep)
_FUNNEL = rf"(\+({_STEP}))?(-({_STEP}))?"
_FLOW = "navigation_flow=.+"

SegmentKey = Annotated[
    str, _form(pattern=f"^(device_type=({_DEVICE})|conversion_funnel=(?=.){_FUNNEL}|{_FLOW})$")
]
SegmentKeys = Annotated[list[SegmentKey], _form(minItems=1)]
"""At least one segment key; see `prefect_wix.planning.segments`."""
NavigationFlow = Annotated[str, _form(pattern=f"^{_FLOW}$")]
"""The key of a navigation flow segment."""
Timezone = Annotated[
    str,
    AfterValidator(check_timezone),
    _form(pattern="^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$", maxLength=100),
]
"""An IANA time zone; a form checks only its characters."""
ListingFile = Annotated[Path, _form(pattern=r"\.(csv|jsonl|ndjson|parquet)$")]
"""The output file of a listing; see `prefect_wix.jobs.writers`."""
IdFile = Annotated[Path, _form(pattern=r"\.(csv|jsonl|ndjson|parquet|txt)$")]
"""An input file of session IDs; see `prefect_wix.load.id_source`."""
ReportFile = Annotated[Path, _form(pattern=r"\.html$")]
"""The output file of a report; see `prefect_wix.profiles.report`."""

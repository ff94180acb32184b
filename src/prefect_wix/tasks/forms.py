"""Parameter types whose JSON schema rejects invalid values in a run form, with an example.

The rules are part of the flow's parameter schema only. In Python nothing but the time zone is
checked here: the code that reads the value raises an error that explains what is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from prefect_wix.client.models import DeviceType, FunnelStep, check_timezone, form_pattern


def _file(*suffixes: str) -> Any:
    return form_pattern(rf"\.({'|'.join(suffixes)})$", f"a name ending in .{', .'.join(suffixes)}")


_DEVICE = "|".join(DeviceType)
_STEP = "|".join(FunnelStep)
_FUNNEL = rf"(\+({_STEP}))?(-({_STEP}))?"
_FLOW = "navigation_flow=.+"
_FLOW_EXAMPLE = "navigation_flow=/{Homepage}>*>__DROP__"

SegmentKey = Annotated[
    str,
    form_pattern(
        f"^(device_type=({_DEVICE})|conversion_funnel=(?=.){_FUNNEL}|{_FLOW})$",
        "a segment such as device_type=MOBILE, conversion_funnel=+VIEWED_PRODUCT-ADDED_TO_CART "
        f"or {_FLOW_EXAMPLE}",
    ),
]
SegmentKeys = Annotated[list[SegmentKey], Field(json_schema_extra={"minItems": 1})]
"""At least one segment key; see `prefect_wix.planning.segments`."""
NavigationFlow = Annotated[str, form_pattern(f"^{_FLOW}$", f"a flow such as {_FLOW_EXAMPLE}")]
"""The key of a navigation flow segment."""
Timezone = Annotated[
    Annotated[str, AfterValidator(check_timezone)] | None,
    form_pattern("^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$", "a time zone such as Europe/Berlin"),
]
"""An IANA time zone; a form checks only its characters."""
ListingFile = Annotated[Path | None, _file("csv", "jsonl", "ndjson", "parquet")]
"""The output file of a listing; see `prefect_wix.jobs.writers`."""
IdFile = Annotated[Path | None, _file("csv", "jsonl", "ndjson", "parquet", "txt")]
"""An input file of session IDs; see `prefect_wix.load.id_source`."""
ReportFile = Annotated[Path | None, _file("html")]
"""The output file of a report; see `prefect_wix.profiles.report`."""

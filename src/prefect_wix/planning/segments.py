"""Segments: session filters, each with a stable key that identifies its partitions.

Keys look like ``device_type=MOBILE``, ``conversion_funnel=+VIEWED_PRODUCT-ADDED_TO_CART`` and
``navigation_flow=/{Homepage}>*>__DROP__``. One filter has one key, and a key parses to its filter.
Warehouses store the keys, so their format never changes. The days are in
`prefect_wix.planning.windows`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote

from prefect_wix.client.models import DeviceType, FunnelStep, SessionsQuery
from prefect_wix.planning.windows import Window

_ANY_PAGE = "*"
_STEP = ">"
# Not percent-encoded, to keep keys readable. `*`, `>` and `%` are, since they structure a key.
_READABLE = "/{}:;,.!?@&=+$()[]'\" |~#"


@dataclass(frozen=True)
class Segment:
    """One session filter: a device, one or two funnel steps, or a navigation flow."""

    device_type: DeviceType | None = None
    funnel_include: FunnelStep | None = None
    funnel_exclude: FunnelStep | None = None
    page_interactions: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, key: str) -> Self:
        """The segment of a key.

        Raises:
            ValueError: the key does not have the documented format.
        """
        kind, _, value = key.partition("=")
        try:
            segment = cls._parse_filter(kind, value)
        except ValueError:
            segment = None
        if segment is not None and segment.key == key:
            return segment
        raise ValueError(
            f"segment {key!r} is not known. Write device_type=MOBILE, "
            "conversion_funnel=+VIEWED_PRODUCT-ADDED_TO_CART (reached the first step and "
            "not the second; each may stand alone) or navigation_flow=/{Homepage}>*>__DROP__."
        )

    @classmethod
    def _parse_filter(cls, kind: str, value: str) -> Self | None:
        # `parse` rejects a segment with another key, such as one with a misplaced sign.
        match kind:
            case "device_type":
                return cls(device_type=DeviceType(value))
            case "conversion_funnel" if value:
                steps = value.removeprefix("+").partition("-")[::2]
                include, exclude = (FunnelStep(step) if step else None for step in steps)
                return cls(funnel_include=include, funnel_exclude=exclude)
            case "navigation_flow":
                return cls(page_interactions=tuple(map(_decode_page, value.split(_STEP))))
        return None

    @property
    def key(self) -> str:
        """The stable key of this filter."""
        if self.device_type is not None:
            return f"device_type={self.device_type}"
        if self.page_interactions is not None:
            pages = (quote(page, safe=_READABLE) or _ANY_PAGE for page in self.page_interactions)
            return f"navigation_flow={_STEP.join(pages)}"
        include = f"+{self.funnel_include}" if self.funnel_include else ""
        exclude = f"-{self.funnel_exclude}" if self.funnel_exclude else ""
        return f"conversion_funnel={include}{exclude}"

    def __str__(self) -> str:
        return self.key

    def query(self, window: Window) -> SessionsQuery:
        """The query for the sessions of this segment in a window."""
        return SessionsQuery(
            start_date=window.start, end_date=window.end, timezone=window.timezone, **vars(self)
        )


DEVICES = tuple(
    Segment(device_type=device)
    for device in (DeviceType.DESKTOP, DeviceType.MOBILE, DeviceType.TABLET)
)
"""The three devices: the default segments of a load."""
ALL_SESSIONS = Segment(device_type=DeviceType.ALL)
"""All sessions: the superset of every segment."""

PROFILED = (*DEVICES, ALL_SESSIONS, *(Segment(funnel_include=step) for step in FunnelStep))
"""The segments that a profile computes device and funnel from, and can check for completeness."""


def parse_segments(keys: Iterable[str]) -> list[Segment]:
    """The segments of keys in order, without duplicates.

    Raises:
        ValueError: there is no key, or a key does not have the documented format.
    """
    segments = [Segment.parse(key) for key in dict.fromkeys(keys)]
    if not segments:
        raise ValueError("No segments: name at least one, such as device_type=ALL.")
    return segments


def _decode_page(text: str) -> str:
    return "" if text == _ANY_PAGE else unquote(text, errors="strict")

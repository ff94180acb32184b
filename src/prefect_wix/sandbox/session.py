"""What a session is: the words of the funnel, of devices and of pages, and one visit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

STEPS = (
    "SITE_SESSIONS",
    "VIEWED_PRODUCT",
    "ADDED_TO_CART",
    "REACHED_CHECKOUT",
    "SESSIONS_CONVERTED",
)
"""The funnel, outermost step first. A session that reached a step reached all before it."""

DEVICES = ("DESKTOP", "MOBILE", "TABLET")
HOME_PAGE = "/{Homepage}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One visit. Instants are aware datetimes, kept to the whole second."""

    id: str
    arrival: datetime
    end: datetime
    device: str | None = "DESKTOP"
    """One of `DEVICES`, or None when the visitor's device is not known."""
    pages: tuple[str, ...] = (HOME_PAGE,)
    """The pages in the order of the visit."""
    depth: str = "SITE_SESSIONS"
    """The deepest of `STEPS` that the visit reached."""


class Journey(NamedTuple):
    """What many sessions have in common: the pages, and the index in `STEPS` that they led to."""

    pages: tuple[str, ...]
    depth: int

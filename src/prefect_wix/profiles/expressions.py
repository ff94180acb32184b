"""SQL expressions for the attributes of a session. Pure functions.

Each function takes, for every segment that is landed on the day, the condition that the segment
lists the session. Segments that are not landed count as unknown. The statements that contain the
expressions are in `steps`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import combinations

from prefect_wix.client.models import FunnelStep
from prefect_wix.planning.segments import ALL_SESSIONS, DEVICES, Segment
from prefect_wix.profiles.relations import ON_TWO_DAYS, SITE_SESSIONS, STEPS

Listed = Mapping[str, str]
"""Segment key -> SQL condition that the segment lists the session."""

_DEVICE_KEYS = {str(one.device_type): one.key for one in DEVICES}


class Kind(StrEnum):
    """Regular, or the first irregularity of a session in the order below."""

    TWO_DEVICES = "two_devices"
    """Two or more devices list the session; its device is NULL."""
    OUTSIDE_ALL = "outside_all"
    """A landed segment of all sessions (ALL or SITE_SESSIONS) does not list the session."""
    BROKEN_FUNNEL = "broken_funnel"
    """The session reached a funnel step without an earlier one."""
    NO_DEVICE = "no_device"
    """All three devices are landed, and none lists the session."""
    ON_TWO_DAYS = "on_two_days"
    """A neighbouring day lists the session too, as Wix may do for a visit over midnight."""
    REGULAR = "regular"


def device(listed: Listed) -> str:
    """The device; NULL if it is unknown or ambiguous."""
    known = {name: listed[key] for name, key in _DEVICE_KEYS.items() if key in listed}
    cases = {f"'{name}'": condition for name, condition in known.items()}
    return _case({"NULL": _two_devices(listed), **cases})


def deepest_step(listed: Listed) -> str:
    """The deepest step that the session is known to have reached; NULL if no step is landed.

    Every session has reached the first step.
    """
    if not any(one.funnel_include or one.funnel_exclude for one in map(Segment.parse, listed)):
        return "CAST(NULL AS TEXT)"
    cases = {f"'{step}'": _reached(step, listed) for step in reversed(STEPS[1:])}
    return _case(cases, otherwise=f"'{STEPS[0]}'")


def dropped_before(listed: Listed) -> str:
    """The first step that the session is known not to have reached, or NULL.

    This is the step after the deepest one if every step is landed.
    """
    return _case({f"'{step}'": _not_reached(step, listed) for step in STEPS[1:]})


def kind(listed: Listed) -> str:
    """The `Kind` of the session."""
    # Only if all three devices are landed: NOT TRUE stands for one that is not.
    no_device = (f"NOT {listed.get(key, 'TRUE')}" for key in _DEVICE_KEYS.values())
    conditions = {
        Kind.TWO_DEVICES: _two_devices(listed),
        Kind.OUTSIDE_ALL: _any(
            f"NOT {listed[key]}" for key in (ALL_SESSIONS.key, SITE_SESSIONS) if key in listed
        ),
        Kind.BROKEN_FUNNEL: _any(
            f"({_not_reached(step, listed)}) AND "
            f"({_any(_reached(one, listed) for one in STEPS[at:])})"
            for at, step in enumerate(STEPS[1:], start=1)
        ),
        Kind.NO_DEVICE: " AND ".join(no_device),
        Kind.ON_TWO_DAYS: ON_TWO_DAYS,
    }
    cases = {f"'{one}'": condition for one, condition in conditions.items()}
    return _case(cases, otherwise=f"'{Kind.REGULAR}'")


def _two_devices(listed: Listed) -> str:
    devices = [listed[key] for key in _DEVICE_KEYS.values() if key in listed]
    return _any(f"{one} AND {other}" for one, other in combinations(devices, 2))


def _reached(step: FunnelStep, listed: Listed) -> str:
    return _any(
        condition for key, condition in listed.items() if Segment.parse(key).funnel_include == step
    )


def _not_reached(step: FunnelStep, listed: Listed) -> str:
    missed = [
        condition for key, condition in listed.items() if Segment.parse(key).funnel_exclude == step
    ]
    reached = listed.get(Segment(funnel_include=step).key)
    return _any([*missed, *([f"NOT {reached}"] if reached else [])])


def _any(conditions: Iterable[str]) -> str:
    return " OR ".join(f"({one})" for one in conditions) or "FALSE"


def _case(cases: Mapping[str, str], *, otherwise: str = "NULL") -> str:
    whens = " ".join(f"WHEN {condition} THEN {value}" for value, condition in cases.items())
    return f"CAST(CASE {whens} ELSE {otherwise} END AS TEXT)"

"""What is said of one session, as SQL over the segments of its day that list it.

Pure text. Each function takes, for every segment that is landed on the day, the condition that it
lists the session; what is not landed is not guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import combinations

from prefect_wix.client.models import FunnelStep
from prefect_wix.planning.segments import ALL_SESSIONS, DEVICES, Segment
from prefect_wix.profiles.relations import SITE_SESSIONS, STEPS

__all__ = ["Kind", "deepest_step", "device", "dropped_before", "kind"]

Listed = Mapping[str, str]
"""Segment key -> the condition that it lists the session."""

_DEVICE_KEYS = {str(one.device_type): one.key for one in DEVICES}
_NOTHING = "CAST(NULL AS TEXT)"


class Kind(StrEnum):
    """Whether a session is as expected, or the first thing that is odd about it."""

    TWO_DEVICES = "two_devices"
    """More than one device lists it; its device is left open."""
    OUTSIDE_ALL = "outside_all"
    """A segment lists it, but not the one of all sessions, which is landed."""
    BROKEN_FUNNEL = "broken_funnel"
    """It reached a step, but not one before it."""
    NO_DEVICE = "no_device"
    """None of the three devices lists it, which are all landed."""
    ON_TWO_DAYS = "on_two_days"
    """The day before or the day after lists it too, as it may when it went on over midnight."""
    REGULAR = "regular"


def device(listed: Listed) -> str:
    """The device, or NULL where it is not known or in doubt."""
    known = {name: listed[key] for name, key in _DEVICE_KEYS.items() if key in listed}
    cases = {f"'{name}'": condition for name, condition in known.items()}
    return _case({"NULL": _two_devices(listed), **cases}) if cases else _NOTHING


def deepest_step(listed: Listed) -> str:
    """The deepest step that it is known to have reached; NULL where no step is landed.

    Every session has reached the first one.
    """
    if not any(map(_of_funnel, listed)):
        return _NOTHING
    cases = {f"'{step}'": _reached(step, listed) for step in reversed(STEPS[1:])}
    return _case(cases, otherwise=f"'{STEPS[0]}'")


def dropped_before(listed: Listed) -> str:
    """The first step that it is known not to have reached, or NULL.

    The step right after the deepest, where every step is landed.
    """
    return _case({f"'{step}'": _not_reached(step, listed) for step in STEPS[1:]})


def kind(listed: Listed, *, on_two_days: str) -> str:
    """The `Kind`.

    Args:
        listed: see the module.
        on_two_days: the condition that a neighbouring day lists the session.
    """
    conditions = {
        Kind.TWO_DEVICES: _two_devices(listed),
        Kind.OUTSIDE_ALL: _outside_all(listed),
        Kind.BROKEN_FUNNEL: _broken_funnel(listed),
        Kind.NO_DEVICE: _no_device(listed),
        Kind.ON_TWO_DAYS: on_two_days,
    }
    cases = {f"'{one}'": condition for one, condition in conditions.items()}
    return _case(cases, otherwise=f"'{Kind.REGULAR}'")


def _two_devices(listed: Listed) -> str:
    devices = [listed[key] for key in _DEVICE_KEYS.values() if key in listed]
    return _any(f"{one} AND {other}" for one, other in combinations(devices, 2))


def _no_device(listed: Listed) -> str:
    if not listed.keys() >= set(_DEVICE_KEYS.values()):
        return "FALSE"
    return " AND ".join(f"NOT {listed[key]}" for key in _DEVICE_KEYS.values())


def _outside_all(listed: Listed) -> str:
    return _any(f"NOT {listed[key]}" for key in (ALL_SESSIONS.key, SITE_SESSIONS) if key in listed)


def _broken_funnel(listed: Listed) -> str:
    return _any(
        f"({_not_reached(step, listed)}) AND ({_any(_reached(one, listed) for one in STEPS[at:])})"
        for at, step in enumerate(STEPS[1:], start=1)
    )


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


def _of_funnel(key: str) -> bool:
    segment = Segment.parse(key)
    return bool(segment.funnel_include or segment.funnel_exclude)


def _any(conditions: Iterable[str]) -> str:
    return " OR ".join(f"({one})" for one in conditions) or "FALSE"


def _case(cases: Mapping[str, str], *, otherwise: str = "NULL") -> str:
    whens = " ".join(f"WHEN {condition} THEN {value}" for value, condition in cases.items())
    return f"CAST(CASE {whens} ELSE {otherwise} END AS TEXT)"

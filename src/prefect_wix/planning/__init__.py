"""Pure functions: windows, segments, partitions, plans, estimates, late arrivals."""

__all__ = ()

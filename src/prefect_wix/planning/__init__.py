"""Pure functions: windows, segments, partitions, plan, estimate, late arrivals."""

__all__ = ()

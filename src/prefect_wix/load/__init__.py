"""Many partitions to rows, and many sessions to marks."""

__all__ = ()

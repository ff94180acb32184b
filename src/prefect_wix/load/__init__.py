"""Load many partitions into a warehouse, and mark the recordings of many sessions at Wix."""

__all__ = ()

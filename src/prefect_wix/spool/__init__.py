"""Session IDs on local disk, and the shield that lets short work finish despite a cancellation."""

__all__ = ()

"""Session IDs on local disk, and the shield that lets short work end when it is cancelled."""

__all__ = ()

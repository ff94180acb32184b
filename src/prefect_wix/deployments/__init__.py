"""The deployments of the flows, and the automations that watch them."""

__all__ = ()

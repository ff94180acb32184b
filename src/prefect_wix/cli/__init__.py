"""The command ``prefect-wix``."""

__all__ = ()

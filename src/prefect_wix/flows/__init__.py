"""Prefect flows: deployable pipelines, each in the module of its name.

A run imports its own flow only: the form of a flow takes 10 ms to build.
"""

__all__ = ()

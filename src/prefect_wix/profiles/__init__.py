"""Session profiles and completeness certificates, computed in the warehouse from landed partitions.

`profiling` has the functions to call. Prefect tasks for them are in `tasks.profiles`.
"""

__all__ = ()

"""How the flows of this package end: one line that is the result, or the cause of a failure."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, cast

from prefect import get_run_logger
from prefect.states import Completed, Failed

from prefect_wix.errors import WixError

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")


def fails_in_one_line(run: F) -> F:
    """Return an expected error as a Failed state, whose message is that of the error.

    A flow that raises would log a traceback and put words of Prefect before the message. Prefect
    raises the error in the caller of the flow, as if the flow had raised it.

    Args:
        run: the function of a flow; a `ValueError` of it is a wrong parameter.
    """

    @wraps(run)
    async def run_or_fail(*args: Any, **kwargs: Any) -> Any:
        try:
            return await run(*args, **kwargs)
        except (WixError, ValueError) as error:
            get_run_logger().debug("Where the run failed:", exc_info=error)
            name = "TimedOut" if isinstance(error, TimeoutError) else "Failed"
            return Failed(message=str(error), data=error, name=name)

    # Prefect would look up the names of annotations in this module.
    run_or_fail.__signature__ = signature(run, eval_str=True)  # type: ignore[attr-defined]
    return cast("F", run_or_fail)


def completed(result: R, message: str) -> R:
    """The result of a completed flow; Prefect shows the message with its state."""
    # Prefect returns the data of a returned state to the caller of the flow.
    return cast("R", Completed(data=result, message=message))

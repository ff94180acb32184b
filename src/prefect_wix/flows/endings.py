"""How the flows of this package fail: one line that names the cause and what to do."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar, cast

from prefect import get_run_logger
from prefect.states import Failed

from prefect_wix.errors import WixError

P = ParamSpec("P")
R = TypeVar("R")


def fails_in_one_line(
    run: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return an expected error as a Failed state, whose message is that of the error.

    A flow that raises would log a traceback and put words of Prefect before the message. Prefect
    raises the error in the caller of the flow, as if the flow had raised it.

    Args:
        run: the function of a flow; a `ValueError` of it is a wrong parameter.
    """

    @wraps(run)
    async def run_or_fail(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await run(*args, **kwargs)
        except (WixError, ValueError) as error:
            get_run_logger().debug("Where the run failed:", exc_info=error)
            name = "TimedOut" if isinstance(error, TimeoutError) else "Failed"
            return cast("R", Failed(message=str(error), data=error, name=name))

    # Prefect would look up the names of annotations in this module.
    run_or_fail.__signature__ = signature(run, eval_str=True)  # type: ignore[attr-defined]
    return run_or_fail

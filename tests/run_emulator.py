"""Starts an emulator, with its defects mended; run in the environment of the emulators.

fakesnow returns NULL, and not 1970, for a time without a value. bqemulator starts without DuckDB's
extension for geography, which it would download, and gives a script its query parameters.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar


def start_fakesnow():
    """Start fakesnow."""
    import pyarrow as pa
    from fakesnow import arrow
    from fakesnow.cli import main

    as_struct = arrow.timestamp_to_sf_struct

    def with_nulls(times):
        struct = as_struct(times)
        fields = [*struct.type]
        nulls = times.combine_chunks().is_null()
        return pa.StructArray.from_arrays(struct.flatten(), fields=fields, mask=nulls)

    arrow.timestamp_to_sf_struct = with_nulls
    main()


def start_bqemulator():
    """Start bqemulator."""
    from bqemulator.cli import main
    from bqemulator.jobs import executor
    from bqemulator.scripting.interpreter import ScriptInterpreter
    from bqemulator.sql.parameters import _extract_value
    from bqemulator.storage.engine import DuckDBEngine

    parameters = ContextVar("parameters", default=())
    run_body, run_script = executor._run_query_body, ScriptInterpreter.run

    async def run_body_with_parameters(*, query_params, **rest):
        parameters.set(query_params or ())
        return await run_body(query_params=query_params, **rest)

    async def run_script_with_parameters(self, source):
        for one in parameters.get():
            self._frames.declare(one["name"], one["parameterType"]["type"], _extract_value(one))
        return await run_script(self, source.replace("@", ""))

    executor._run_query_body = run_body_with_parameters
    ScriptInterpreter.run = run_script_with_parameters
    DuckDBEngine._load_spatial = lambda self: None
    main()


if __name__ == "__main__":
    {"fakesnow": start_fakesnow, "bqemulator": start_bqemulator}[sys.argv.pop(1)]()

"""Warehouses that run other features' transactions beside their own six verbs, in SQL.

What landed ids mean is computed inside the database, and so are the marks that are kept there. An
engine only runs the steps; what they are is each feature's own business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

from prefect_wix.errors import WarehouseUnsupportedError
from prefect_wix.warehouse.interface import Warehouse
from prefect_wix.warehouse.steps import Steps, Tables

__all__ = ["SqlWarehouse", "sql_warehouse"]

T = TypeVar("T")


@runtime_checkable
class SqlWarehouse(Warehouse, Protocol):
    """A warehouse that runs any steps over its tables: DuckDB and PostgreSQL."""

    async def transact(self, work: Callable[[Tables], Steps[T]]) -> T:
        """Run the steps in one transaction, in turn with all others that are run so.

        Loads go on meanwhile where the engine allows it: two questions in one transaction may see
        the landings of different moments.

        Raises:
            WarehouseError: see the tree in `prefect_wix.errors`.
        """


def sql_warehouse(warehouse: Warehouse, *, what_for: str) -> SqlWarehouse:
    """The same warehouse, which is one that runs steps.

    Args:
        warehouse: any.
        what_for: what needs it, as the beginning of a sentence.

    Raises:
        WarehouseUnsupportedError: it is not.
    """
    if isinstance(warehouse, SqlWarehouse):
        return warehouse
    raise WarehouseUnsupportedError(
        f"{what_for} need a duckdb:// or postgresql:// warehouse; "
        f"{type(warehouse).__name__} is not supported yet."
    )

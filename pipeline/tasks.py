"""Light Ray tasks, of which each step over the dataset's rows is made, and the nodes that they may run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray

Ref = Any
"""A table in Ray's object store."""


def light_task(function: Callable[..., Any], returns: int = 1) -> Any:
    """A light task of a function: it waits for the storage more than it computes.

    returns: how many objects it returns; of several each has a reference of its own.
    """
    return ray.remote(function).options(num_cpus=1, scheduling_strategy="SPREAD", num_returns=returns)


def sizes(tables: list[Ref]) -> list[int]:
    """How many rows each of these tables has."""
    found: list[int] = ray.get([light_task(_size).remote(table) for table in tables])
    return found


def _size(table: pa.Table) -> int:
    return int(table.num_rows)


def alive_nodes() -> set[str]:
    """The ids of the nodes that are up."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

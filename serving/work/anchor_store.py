"""Records of anchors in Ray's object store: one store for each node, an actor that owns what is in it.

An object dies with the process that made it, so a replica hands its entries to the store of its node,
which puts them again under its own name: they outlive the replica. Readers get references and fetch what those name, so
a node holds one copy for all its readers. Tensors travel as arrays of bytes, which Ray maps into the reader without a
copy. The store is a detached actor; it ends when nobody has called it for a while.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from posegen.sharing import Position, SharedEntry
from serving.work.metrics import RECORD_BYTES
from serving.work.records import RecordId, RecordLost

NAMESPACE = "posegen"
IDLE_S = 600.0
"""Seconds without a call after which a store ends; live servers call it every few seconds, also while they work."""

# Readers never write into a record; torch warns of every array that it may only read.
warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)


@dataclass(frozen=True)
class PackedEntry:
    """An entry as arrays of bytes, and the names of its tensors' dtypes."""

    arrays: tuple[np.ndarray, ...]
    dtypes: tuple[str, ...]


def pack(entry: SharedEntry) -> PackedEntry:
    """An entry as arrays of bytes."""
    tensors = [tensor.cpu().contiguous() for tensor in (*entry.tensors, entry.foreground)]
    return PackedEntry(
        arrays=tuple(tensor.view(torch.uint8).numpy() for tensor in tensors),
        dtypes=tuple(str(tensor.dtype).removeprefix("torch.") for tensor in tensors),
    )


def unpack(packed: PackedEntry) -> SharedEntry:
    """The entry that was packed, on the CPU, in the memory of the arrays."""
    *tensors, foreground = (
        torch.from_numpy(array).view(getattr(torch, dtype))
        for array, dtype in zip(packed.arrays, packed.dtypes, strict=True)
    )
    return SharedEntry(tuple(tensors), foreground)


class AnchorStore:
    """Owns the entries of records."""

    def __init__(self) -> None:
        self._records: dict[RecordId, dict[Position, ray.ObjectRef[PackedEntry]]] = {}
        self._bytes: dict[tuple[RecordId, Position], int] = {}
        self._called = time.monotonic()
        threading.Thread(target=self._end_when_idle, daemon=True).start()

    def put(self, record: RecordId, place: Position, packed: PackedEntry) -> None:
        """Keeps an entry."""
        self._called = time.monotonic()
        self._records.setdefault(record, {})[place] = ray.put(packed)
        self._bytes[record, place] = sum(array.nbytes for array in packed.arrays)
        RECORD_BYTES.set(sum(self._bytes.values()))

    def entry(self, record: RecordId, place: Position) -> list[ray.ObjectRef[PackedEntry]]:
        """The reference of an entry; None if it is not here."""
        self._called = time.monotonic()
        found = self._records.get(record, {}).get(place)
        return [] if found is None else [found]

    def sweep(self, live: set[tuple[str, int]]) -> None:
        """Drops all records but these."""
        self._called = time.monotonic()
        self._records = {record: entries for record, entries in self._records.items() if record in live}
        self._bytes = {key: size for key, size in self._bytes.items() if key[0] in live}
        RECORD_BYTES.set(sum(self._bytes.values()))

    def _end_when_idle(self) -> None:
        while time.monotonic() - self._called < IDLE_S:
            time.sleep(IDLE_S / 10)
        os._exit(0)  # a detached actor has no handle that could end it


_STORE: Any = ray.remote(num_cpus=0)(AnchorStore)


class RayRecords:
    """The stores of a cluster; see `serving.work.records.Records`."""

    def __init__(self, patience: float) -> None:
        """Starts the store here. patience: seconds to wait for a store's answer or for an entry; then it is lost."""
        self._patience = patience
        ray.get(self._near().__ray_ready__.remote())

    def here(self) -> str:
        return f"posegen-anchor-store-{ray.get_runtime_context().get_node_id()}"

    def _near(self) -> Any:
        """The store of this node, started if there is none."""
        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return _STORE.options(
            name=self.here(),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            scheduling_strategy=node,
        ).remote()

    def put(self, record: RecordId, place: Position, entry: SharedEntry) -> None:
        with _or_lost():
            self._get(self._near().put.remote(record, place, pack(entry)))

    def get(self, store: str, record: RecordId, place: Position) -> SharedEntry:
        with _or_lost():
            found = self._get(_actor(store).entry.remote(record, place))
            if not found:
                raise RecordLost(f"{store} has no entry of {record} at {place}")
            return unpack(self._get(found[0]))

    def sweep(self, live: set[tuple[str, int]]) -> None:
        with suppress(RecordLost), _or_lost():  # without a store there is nothing to drop
            self._get(_actor(self.here()).sweep.remote(live))

    def _get(self, reference: Any) -> Any:
        return ray.get(reference, timeout=self._patience)


def _actor(store: str) -> Any:
    return ray.get_actor(store, namespace=NAMESPACE)


@contextmanager
def _or_lost() -> Iterator[None]:
    """A store that is not there, dead, full or out of reach means that the record is lost."""
    try:
        yield
    except (RayError, ValueError) as error:  # ValueError: Ray knows no actor of this name
        raise RecordLost(f"{type(error).__name__}: {error}") from error

"""A worker of a group, of rank 1 or above: it denoises with rank 0, which is `posegen.distributed.group`.

It maps the transformer of rank 0, has no other part, and takes the same steps as rank 0 by the same code. After each
step, and at each place of the record, it waits for a message: go on, or stop. It ends when rank 0 ends; an error in it
ends it, which rank 0 sees.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig

from posegen.distributed.branches import GroupPasses
from posegen.distributed.progress import count_blocks
from posegen.distributed.shared_weights import load_shared
from posegen.longvideo.conditions import Conditions
from posegen.longvideo.sampling import Guidance, Schedule, denoise
from posegen.model.checkpoints import set_adapter, set_strengths
from posegen.model.offloading import offload_blocks
from posegen.sharing import Position, SegmentSharing, SharedEntry
from posegen.sharing.parts import gather, scatter

FOREVER = timedelta(days=365)
"""How long an exchange may take: rank 0 watches whether the processes get on."""


class SegmentStopped(Exception):  # noqa: N818 - nothing is wrong
    """Rank 0 wants no more of this segment."""


@dataclass(frozen=True)
class GroupSettings:
    """What all processes of a group are started with.

    device: "cuda", a GPU for each, or "cpu". offload: whether blocks lie on the host until they compute. rendezvous:
    file by which they find each other. counts: of the blocks that each has done.
    """

    device: str
    processes: int
    offload: bool
    rendezvous: str
    counts: Any

    def device_of(self, rank: int) -> torch.device:
        """What a process computes on."""
        return torch.device("cuda", rank) if self.device == "cuda" else torch.device(self.device)

    def place(self, rank: int, transformer: Any) -> None:
        """Puts the transformer, whose weights are mapped, where this rank computes."""
        if self.offload:
            offload_blocks(transformer, self.device_of(rank), shared=True)
        else:
            transformer.to(self.device_of(rank))

    def join(self, rank: int, transformer: Any) -> GroupPasses:
        """Joins the group as this rank; the transformer computes its parts of the passes from now on."""
        cuda = self.device_of(rank) if self.device == "cuda" else None
        if cuda is not None:
            torch.cuda.set_device(cuda)
        dist.init_process_group(
            "gloo" if cuda is None else "nccl",
            init_method=f"file://{self.rendezvous}",
            rank=rank,
            world_size=self.processes,
            timeout=FOREVER,
            device_id=cuda,
        )
        transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=self.processes))
        count_blocks(transformer, self.counts, rank)
        return GroupPasses(transformer)


@dataclass(frozen=True)
class SegmentTask:
    """The arguments of `denoise` for one segment, all on the CPU, without the store of what is shared."""

    adapters: list[str]
    strengths: dict[str, float]
    conditions: Conditions
    noise: torch.Tensor
    schedule: Schedule
    guidance: Guidance
    sharing: SegmentSharing | None


def run_worker(settings: GroupSettings, rank: int, rank_zero: Connection) -> None:
    """The worker's main loop: takes rank 0's transformer over, then denoises with it until that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 decides what an interrupt means
    threading.Thread(target=_end_with_rank_zero, daemon=True).start()
    device = settings.device_of(rank)
    with suppress(EOFError):  # rank 0 has ended
        transformer = load_shared(rank_zero.recv_bytes())
        settings.place(rank, transformer)
        rank_zero.send_bytes(b"loaded")
        rank_zero.recv_bytes()  # all have loaded
        passes = settings.join(rank, transformer)
        _serve(rank_zero, transformer, device, passes)


def _serve(rank_zero: Connection, transformer: Any, device: torch.device, passes: GroupPasses) -> None:
    """Denoises a segment after the other."""

    def receive() -> Any:
        message = pickle.loads(rank_zero.recv_bytes())
        if isinstance(message, SegmentStopped):
            raise message
        return message

    while True:
        with suppress(SegmentStopped):
            _take_part(receive(), transformer, device, passes, receive)


def _take_part(
    task: SegmentTask, transformer: Any, device: torch.device, passes: GroupPasses, receive: Callable[[], Any]
) -> None:
    """Computes this rank's part of a segment."""
    if getattr(transformer, "peft_config", {}):
        set_adapter(transformer, task.adapters)
        set_strengths(transformer, task.strengths)
    denoise(
        transformer,
        moved(task.conditions, device),
        task.noise,
        task.schedule,
        task.guidance,
        task.sharing and replace(task.sharing, store=_RankZeroRecord(receive, device)),
        lambda _step: receive(),
        passes,
    )


@dataclass(frozen=True)
class _RankZeroRecord:
    """A worker's view of the store, which only rank 0 has."""

    receive: Callable[[], Any]
    device: torch.device

    def put(self, position: Position, entry: SharedEntry) -> None:
        """Sends this rank's heads to rank 0."""
        gather(entry)
        self.receive()

    def get(self, position: Position) -> SharedEntry:
        """Receives this rank's heads from rank 0."""
        return scatter(self.receive(), self.device)


def _end_with_rank_zero() -> None:
    rank_zero = multiprocessing.parent_process()
    assert rank_zero is not None
    rank_zero.join()
    os._exit(1)


def moved(conditions: Conditions, device: torch.device) -> Conditions:
    """The conditions with all tensors on a device."""
    tensors = {field.name: getattr(conditions, field.name) for field in fields(conditions)}
    there = {name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None}
    return Conditions(**there)

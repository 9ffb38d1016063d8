"""A process that denoises with others under a leader; see `posegen.distributed.group`.

Choices made: it holds the transformer alone, takes the same steps as its leader by the same code, and is told after
each step, and at each place of the record, to go on or to stop. It ends with its leader, however that ends; what goes
wrong in it ends it, which its leader sees.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig

from posegen.longvideo.conditions import Conditions
from posegen.longvideo.sampling import Guidance, denoise
from posegen.model.checkpoints import set_adapter
from posegen.pipeline import PoseGenPipeline
from posegen.sharing import AnchorReader, AnchorRecorder, Position, SharedEntry
from posegen.sharing.parts import gather, scatter

LEADERS_ALONE = ("vae", "text_encoder", "tokenizer", "scheduler", "image_encoder", "image_processor")


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """The leader wants no more of this segment."""


@dataclass(frozen=True)
class Setting:
    """What the processes of a group have in common.

    folder: of the pipeline. dtype: of the transformer. device: "cuda", a GPU for each, or "cpu". rendezvous: file by
    which they find each other. timeout: seconds to wait for one that does not come to an exchange.
    """

    folder: str
    dtype: torch.dtype
    device: str
    processes: int
    rendezvous: str
    timeout: float

    def device_of(self, rank: int) -> torch.device:
        """What a process computes on."""
        return torch.device("cuda", rank) if self.device == "cuda" else torch.device(self.device)

    def join(self, rank: int, transformer: Any) -> None:
        """Makes this process one of the group; its transformer computes a part of each pass from now on."""
        cuda = self.device_of(rank) if self.device == "cuda" else None
        if cuda is not None:
            torch.cuda.set_device(cuda)
        dist.init_process_group(
            "gloo" if cuda is None else "nccl",
            init_method=f"file://{self.rendezvous}",
            rank=rank,
            world_size=self.processes,
            timeout=timedelta(seconds=self.timeout),
            device_id=cuda,
        )
        transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=self.processes))


@dataclass(frozen=True)
class Order:
    """A segment to be denoised, as `denoise` takes it, all on the CPU; what it shares is without its store."""

    adapter: str | None
    conditions: Conditions
    noise: torch.Tensor
    sigmas: Sequence[float]
    guidance: Guidance
    sharing: AnchorRecorder | AnchorReader | None


def follow(setting: Setting, rank: int, leader: Connection) -> None:
    """What the process does until its leader ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader's matter
    threading.Thread(target=_end_with_leader, daemon=True).start()
    device = setting.device_of(rank)
    pipeline = PoseGenPipeline.from_pretrained(
        setting.folder, dtype=setting.dtype, **dict.fromkeys(LEADERS_ALONE)
    )
    transformer = pipeline.transformer.to(device)
    leader.send_bytes(b"loaded")
    setting.join(rank, transformer)

    def told() -> Any:
        message = pickle.loads(leader.recv_bytes())
        if isinstance(message, Stopped):
            raise message
        return message

    with suppress(EOFError):  # the leader has ended
        while True:
            with suppress(Stopped):
                _obey(told(), transformer, device, told)


def _obey(order: Order, transformer: Any, device: torch.device, told: Callable[[], Any]) -> None:
    """Takes part in a segment."""
    if order.adapter is not None:
        set_adapter(transformer, order.adapter)
    denoise(
        transformer,
        moved(order.conditions, device),
        order.noise,
        order.sigmas,
        order.guidance,
        order.sharing and replace(order.sharing, store=_LeadersRecord(told, device)),
        lambda _step: told(),
    )


@dataclass(frozen=True)
class _LeadersRecord:
    """The store of a process that follows: its leader has it."""

    told: Callable[[], Any]
    device: torch.device

    def put(self, position: Position, entry: SharedEntry) -> None:
        """Hands over its part."""
        gather(entry)
        self.told()

    def get(self, position: Position) -> SharedEntry:
        """Its part."""
        return scatter(self.told(), self.device)


def _end_with_leader() -> None:
    leader = multiprocessing.parent_process()
    assert leader is not None
    leader.join()
    os._exit(1)


def moved(conditions: Conditions, device: torch.device) -> Conditions:
    """The same on a device."""
    tensors = {field.name: getattr(conditions, field.name) for field in fields(conditions)}
    there = {name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None}
    return Conditions(**there)

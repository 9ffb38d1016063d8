"""Who computes which pass of a step: guidance takes two, one that sees the prompt and one that does not.

An even group parts into halves. Each computes one of the two passes, split among its processes by context parallelism,
and they exchange the velocities; that takes fewer exchanges than all processes in both passes. Steps of a single pass,
and steps that share the background, are computed by all processes, one pass after the other: an unguided pass that
shares takes over what the guided one saw, and the record is written and read by all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from posegen.model.context_parallel import context_parallel, other_split
from posegen.sharing import Branch


class Part(NamedTuple):
    """What a process computes in a step: these branches one after the other, each split among so many processes."""

    branches: tuple[Branch, ...]
    processes: int


def part_of(rank: int, processes: int, branches: tuple[Branch, ...], shares: bool) -> Part:
    """What the process of this rank computes in a step with these branches that shares the background or does not."""
    if len(branches) == 1 or processes % 2 or shares:
        return Part(branches, processes)
    half = processes // 2
    return Part((branches[rank // half],), half)


class GroupPasses:
    """The passes of a step, computed together; `posegen.longvideo.sampling.denoise` calls it in all processes alike."""

    def __init__(self, transformer: Any) -> None:
        """transformer: whose context parallelism is on, over all processes of the default process group."""
        self._config = context_parallel(transformer._parallel_config)
        self._rank, self._processes = dist.get_rank(), dist.get_world_size()
        if self._processes % 2 == 0:
            self._halves = dist.init_device_mesh(
                transformer.device.type,
                (2, 1, self._processes // 2),
                mesh_dim_names=("branch", "ring", "ulysses"),
            )

    def __call__(
        self, predict: Callable[[Branch], torch.Tensor], branches: tuple[Branch, ...], shares: bool
    ) -> list[torch.Tensor]:
        """What `predict` gives for each branch."""
        own = part_of(self._rank, self._processes, branches, shares)
        if own.processes == self._processes:
            return [predict(branch) for branch in own.branches]
        with other_split(self._config, self._halves):
            velocity = predict(own.branches[0]).contiguous()
        velocities = [torch.empty_like(velocity) for _ in branches]
        dist.all_gather(velocities, velocity, self._halves["branch"].get_group())
        return velocities

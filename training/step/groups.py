"""Groups of workers that share each item's sequence: context parallelism (`posegen.model.context_parallel`).

All workers of a group see the same items, each holds its part of their tokens, and their gradients add up to that of
one worker. ZeRO splits weights and states among all workers, whatever their groups, so to DeepSpeed each is a worker
like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch.distributed.device_mesh import DeviceMesh

from posegen.model.transformer import PoseGenTransformer3DModel


@dataclass(frozen=True)
class Group:
    """A worker's group, the `number`-th of `count`, of so many workers; mesh: (group, ring, ulysses), None for one."""

    number: int
    count: int
    size: int
    mesh: DeviceMesh | None

    @classmethod
    def of(cls, rank: int, workers: int, size: int, device: torch.device) -> Group:
        """Groups of neighbouring ranks, which are on the same machine; all workers must call it together.

        Where the workers that are there do not part into groups of `size`, they form the largest smaller ones that are
        a divisor of it: the training goes on, with more memory for each.
        """
        size = gcd(workers, size)
        mesh = None
        if size > 1:
            names = ("group", "ring", "ulysses")
            mesh = dist.init_device_mesh(device.type, (workers // size, 1, size), mesh_dim_names=names)
        return cls(rank // size, workers // size, size, mesh)

    @property
    def leads(self) -> bool:
        """Whether this worker makes the items of the group."""
        return self.mesh is None or self.mesh.get_local_rank("ulysses") == 0

    def split(self, transformer: PoseGenTransformer3DModel) -> None:
        """Let the transformer split its tokens among the group."""
        if self.mesh is not None:
            transformer.enable_parallelism(
                config=ContextParallelConfig(ulysses_degree=self.size, mesh=self.mesh)
            )

    def handed_out(self, items: Any, device: torch.device) -> Any:
        """What the leading worker gives, on all workers of the group; the others give None."""
        if self.mesh is None:
            return items
        held = [items]
        dist.broadcast_object_list(held, group=self.mesh.get_group("ulysses"), group_src=0, device=device)
        return held[0]

"""One pass through the transformer on several processes: context parallelism.

Both streams are split into equal parts, and tokens are exchanged for heads around self-attention (Ulysses, Jacobs et
al., arXiv 2309.14509). So each process attends over all tokens for its heads, and sharing works there unchanged: a
process records and reads its heads. The exchange passes gradients on; the sum of the processes' gradients is that of
one process. It works with nccl and, where there is no accelerator, with gloo on CPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from diffusers import FirstBlockCacheConfig, WanTransformer3DModel
from diffusers.hooks.context_parallel import EquipartitionSharder
from diffusers.models._modeling_parallel import (
    ContextParallelConfig,
    ContextParallelInput,
    ContextParallelOutput,
    ParallelConfig,
)
from torch.distributed.device_mesh import DeviceMesh


def context_parallel(config: ParallelConfig | None) -> ContextParallelConfig | None:
    """The part of a model's or processor's configuration that is about context parallelism, None where it is off."""
    return config and config.context_parallel_config


@contextmanager
def other_split(config: ContextParallelConfig, mesh: DeviceMesh) -> Iterator[None]:
    """Splits passes among the processes of another mesh, one that has this process in it, while in the block."""
    before = dict(vars(config))
    config.setup(config._rank, config._world_size, config._device, mesh)
    try:
        yield
    finally:
        vars(config).update(before)


def gather_tokens(values: torch.Tensor, config: ContextParallelConfig | None) -> torch.Tensor:
    """(B, own tokens) -> (B, tokens of all processes), in their order."""
    return values if config is None else EquipartitionSharder.unshard(values, 1, config._ulysses_mesh)


def tokens_to_heads(
    states: torch.Tensor, config: ContextParallelConfig | None, video_tokens: int
) -> torch.Tensor:
    """(B, own video + own reference tokens, H, D) -> (B, all video + all reference tokens, H / processes, D)."""
    if config is None:
        return states
    parts = _exchange(torch.stack(states.chunk(config._ulysses_mesh.size(), dim=2)), config)
    return torch.cat([*parts[:, :, :video_tokens], *parts[:, :, video_tokens:]], dim=1)


def heads_to_tokens(
    states: torch.Tensor, config: ContextParallelConfig | None, video_tokens: int
) -> torch.Tensor:
    """The way back of `tokens_to_heads`."""
    if config is None:
        return states
    processes = config._ulysses_mesh.size()
    streams = states.split([video_tokens * processes, states.shape[1] - video_tokens * processes], dim=1)
    parts = torch.cat([torch.stack(stream.chunk(processes, dim=1)) for stream in streams], dim=2)
    return torch.cat([*_exchange(parts, config)], dim=2)


def _exchange(parts: torch.Tensor, config: ContextParallelConfig) -> torch.Tensor:
    """Part i of the first dimension goes to process i; what comes back is in the processes' order."""
    return collectives.all_to_all_single(parts.contiguous(), None, None, config._ulysses_mesh.get_group())


class ContextParallelTransformer(WanTransformer3DModel):
    """What of context parallelism a model of two streams does differently from Wan's."""

    _cp_plan: dict[str, Any] = {  # noqa: RUF012
        "rope": {
            index: ContextParallelInput(split_dim=1, expected_dims=4, split_output=True) for index in range(2)
        },
        "blocks.0": {
            "hidden_states": ContextParallelInput(split_dim=1, expected_dims=3, split_output=False),
            "encoder_hidden_states": ContextParallelInput(split_dim=1, expected_dims=3, split_output=False),
        },
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    def enable_parallelism(self, *, config: Any, cp_plan: dict[str, Any] | None = None) -> None:
        """As diffusers', where context parallelism is by Ulysses with equal parts."""
        context = getattr(config, "context_parallel_config", config)
        if isinstance(context, ContextParallelConfig):
            heads = self.config.num_attention_heads
            if context.ring_degree > 1 or context.ulysses_anything or heads % context.ulysses_degree:
                raise ValueError(
                    f"context parallelism needs ContextParallelConfig(ulysses_degree=n) with an n that divides the "
                    f"{heads} attention heads, and neither ring attention nor ulysses_anything"
                )
        super().enable_parallelism(config=config, cp_plan=cp_plan)

    def _resolve_parallel_config(self, config: Any) -> ParallelConfig:
        if isinstance(config, ContextParallelConfig):
            config = ParallelConfig(context_parallel_config=config)
        context = getattr(config, "context_parallel_config", None)
        if context is None or torch.accelerator.is_available():
            return super()._resolve_parallel_config(config)
        # diffusers would divide by the number of accelerators.
        mesh = context.mesh or dist.init_device_mesh(
            "cpu", context.mesh_shape, mesh_dim_names=context.mesh_dim_names
        )
        config.setup(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), mesh=mesh)
        self._parallel_config = config
        return config

    def _require_parts(self, video: torch.Tensor, reference: torch.Tensor) -> None:
        """Raise ValueError where the processes cannot share this pass."""
        config = context_parallel(self._parallel_config)
        if config is None:
            return
        processes = config._ulysses_mesh.size()
        if video.shape[1] % processes or reference.shape[1] % processes:
            raise ValueError(
                f"{video.shape[1]} video and {reference.shape[1]} reference tokens cannot be parted equally among "
                f"{processes} processes; choose another size of the video or another ulysses_degree"
            )
        if isinstance(self._cache_config, FirstBlockCacheConfig):
            raise ValueError(
                "First Block Cache looks at a process's own tokens, so under context parallelism one process might "
                "skip blocks in which others wait for it; use one of the two"
            )

"""Weights that lie on the host, and come to the device block by block as they compute."""

from __future__ import annotations

import torch
from diffusers.hooks import apply_group_offloading
from torch import nn


def offload_blocks(part: nn.Module, device: torch.device, shared: bool = False) -> None:
    """Leaves a part on the host; its blocks come to the device one after the other, the next while one computes.

    shared: whether other processes map the same weights. Then a block is pinned as it goes, not all of them at once,
    which would be a copy of all weights for each process.
    """
    stream = device.type == "cuda"
    apply_group_offloading(
        part,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=stream,
        non_blocking=stream,
        low_cpu_mem_usage=stream and shared,
    )

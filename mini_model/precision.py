"""What a device computes products fast in."""

from __future__ import annotations

import torch


def computing_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, or float32 on a CPU without AVX-512, which takes ten times as long over bfloat16."""
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    return torch.float32 if slow else torch.bfloat16


def autocast(device: torch.device) -> torch.autocast:
    """Has products computed in `computing_dtype`."""
    dtype = computing_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

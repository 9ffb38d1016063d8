"""How the transformer's blocks run in a training step: with less memory, or compiled."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from posegen.model.transformer import PoseGenTransformer3DModel
from training.step.engine import EngineConfig

_checkpoint = partial(checkpoint, use_reentrant=False)


def set_up_blocks(transformer: PoseGenTransformer3DModel, config: EngineConfig) -> None:
    """Turns on gradient checkpointing, its offload and torch.compile as the settings ask."""
    if config.gradient_checkpointing:
        transformer.enable_gradient_checkpointing(_offloaded if config.offload else _checkpoint)
    if config.compile:
        transformer.compile_repeated_blocks()


def _offloaded(block: torch.nn.Module, *inputs: Any) -> Any:
    """Runs a block and keeps only its input, in the host's memory."""
    with save_on_cpu(pin_memory=torch.cuda.is_available()):
        return _checkpoint(block, *inputs)

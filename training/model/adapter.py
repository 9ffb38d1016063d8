"""The transformer with a new adapter to train, and what of it is trained.

Choices made: trained are LoRA on attention and feed-forward and, as a whole, the patch embeddings of video and pose,
reference and hands. Where the data has no hands their patches stay as they are: a module that takes part in some steps
only would leave ZeRO without its gradient. Names are those of an adapter's file, the same for every stage of ZeRO.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from posegen.longvideo.conditions import encode
from posegen.model.checkpoints import EMBEDDINGS, load_adapter, set_adapter
from posegen.model.folder import model_folder
from posegen.model.transformer import PoseGenTransformer3DModel
from training.config import TrainConfig
from training.model import frozen as models

TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj"),
    *("ffn.net.0.proj", "ffn.net.2"),
)
"""Ends of the adapted linears' names: self- and cross-attention, feed-forward."""
GREY_FRAMES, GREY_SIDE = 5, 32
"""Of a video that is grey all over, whose latents are the same everywhere, but for the VAE's rims."""


def load_model(config: TrainConfig, device: torch.device) -> PoseGenTransformer3DModel:
    """The frozen transformer of the model folder with an adapter to be trained; the same on every worker."""
    transformer = PoseGenTransformer3DModel.from_pretrained(
        model_folder(config.data.model),
        subfolder="transformer",
        torch_dtype=getattr(torch, config.engine.precision),
    ).to(device)
    transformer.requires_grad_(False).train()
    name = config.data.adapter
    if config.adapter.start:
        load_adapter(transformer, config.adapter.start, name)
        set_adapter(transformer, name, trainable=True)
    else:
        torch.manual_seed(config.data.seed)
        transformer.add_adapter(lora_config(config), name)
        if config.adapter.empty_pose:
            _empty_pose(transformer, config)
    if transformer.hand_patch_embedding is not None and not config.data.hands:
        transformer.hand_patch_embedding.requires_grad_(False)
    if config.engine.gradient_checkpointing:
        transformer.enable_gradient_checkpointing(_checkpointing(config.engine.offload))
    if config.engine.compile:
        transformer.compile_repeated_blocks()
    return transformer


@torch.no_grad()
def _empty_pose(transformer: PoseGenTransformer3DModel, config: TrainConfig) -> None:
    """Pose channels of zero, and in the bias what they gave for grey, which Wan sees where no frame is given."""
    patches = adapter_parameters(transformer, config.data.adapter)
    weight, bias = patches["patch_embedding.weight"], patches["patch_embedding.bias"]
    pose = weight[:, -transformer.config.out_channels :]
    grey = np.full((1, GREY_FRAMES, *2 * [GREY_SIDE], 3), 128, np.uint8)
    latents = encode(models.load(config.data.model, "vae"), grey)[0].mean((1, 2, 3)).to(weight)
    bias.add_(pose.sum((2, 3, 4)) @ latents)
    pose.zero_()


def lora_config(config: TrainConfig) -> LoraConfig:
    return LoraConfig(
        r=config.adapter.rank,
        lora_alpha=config.adapter.alpha,
        target_modules=list(TARGETS),
        modules_to_save=[*EMBEDDINGS],
    )


def adapter_parameters(transformer: PoseGenTransformer3DModel, name: str) -> dict[str, torch.nn.Parameter]:
    """All parameters of an adapter, by their names in its file."""
    found = {}
    for full, parameter in transformer.named_parameters():
        plain = full.replace(f".modules_to_save.{name}.", ".")
        for matrix in ("lora_A", "lora_B"):
            plain = plain.replace(f".{matrix}.{name}.", f".{matrix}.")
        if plain != full:
            found[plain] = parameter
    return found


def _checkpointing(offload: bool) -> Callable[..., Any]:
    """How a block runs without keeping more than its input, in the host's memory where `offload`."""
    run = partial(checkpoint, use_reentrant=False)
    if not offload:
        return run

    def offloaded(block: torch.nn.Module, *inputs: Any) -> Any:
        with save_on_cpu(pin_memory=torch.cuda.is_available()):
            return run(block, *inputs)

    return offloaded

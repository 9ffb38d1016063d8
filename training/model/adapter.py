"""The transformer with a new adapter, and which of its weights are trained.

LoRA on attention and feed-forward, and the patch embeddings of video and pose, reference and hands as a
whole. Where the data has no hands their patches are frozen: a module that takes part in some steps only would leave
ZeRO without its gradient. Names are those of an adapter's file, the same for every stage of ZeRO.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig

from posegen.longvideo.conditions import encode_frames
from posegen.model.checkpoints import EMBEDDINGS, load_adapter, set_adapter
from posegen.model.folder import model_folder
from posegen.model.host_linear import swap_blocks
from posegen.model.scaled_linear import quantise_blocks
from posegen.model.transformer import PoseGenTransformer3DModel
from training.model import frozen

TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj"),
    *("ffn.net.0.proj", "ffn.net.2"),
)
"""Ends of the adapted linears' names: self- and cross-attention, feed-forward."""
GREY_FRAMES, GREY_SIDE = 5, 32
"""Of a video that is grey all over, whose latents are the same everywhere, but for the VAE's rims."""


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA on attention and feed-forward; the patch embeddings are trained whole beside it."""

    rank: int = 64
    """Of LoRA's matrices."""
    alpha: float = 64.0
    """What the matrices add is multiplied by alpha / rank."""
    empty_pose: bool = False
    """Let the pose's channels begin at zero instead of as Wan's for the given picture: the network then starts as Wan
    does that is given the reference, which helps a small one."""
    start: str | None = None
    """Folder of an adapter to begin with, in place of a new one: its rank and alpha count."""


def load_model(
    model: str,
    name: str,
    config: AdapterConfig,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    hands: bool,
    fp8_base: bool = False,
    blocks_to_swap: int = 0,
) -> PoseGenTransformer3DModel:
    """The frozen transformer of a model folder with an adapter to be trained; the same on every worker.

    name: the adapter's, base or cond. seed: of a new adapter's weights. hands: whether the data has hand pictures.
    fp8_base: whether the frozen linears of its blocks are held in fp8. blocks_to_swap: in how many blocks they stay in
    the host's memory.
    """
    transformer = PoseGenTransformer3DModel.from_pretrained(
        model_folder(model), subfolder="transformer", torch_dtype=dtype
    )
    if fp8_base:
        quantise_blocks(transformer)
    swap_blocks(transformer, blocks_to_swap)
    transformer.requires_grad_(False).train()
    if config.start:
        load_adapter(transformer, config.start, name)
        set_adapter(transformer, name, trainable=True)
    else:
        torch.manual_seed(seed)
        transformer.add_adapter(lora_config(config), name)
        for tensor_name, tensor in adapter_parameters(transformer, name).items():
            if ".lora_" in tensor_name:
                tensor.data = tensor.data.to(
                    dtype
                )  # PEFT leaves them in float32 on a weight that is no float
        if config.empty_pose:
            _empty_pose(transformer, name, model)
    if transformer.hand_patch_embedding is not None and not hands:
        transformer.hand_patch_embedding.requires_grad_(False)
    return transformer.to(device)


@torch.no_grad()
def _empty_pose(transformer: PoseGenTransformer3DModel, name: str, model: str) -> None:
    """Pose channels of zero, and in the bias what they gave for grey, which Wan sees where no frame is given."""
    patches = adapter_parameters(transformer, name)
    weight, bias = patches["patch_embedding.weight"], patches["patch_embedding.bias"]
    pose = weight[:, -transformer.config.out_channels :]
    grey = np.full((1, GREY_FRAMES, *2 * [GREY_SIDE], 3), 128, np.uint8)
    latents = encode_frames(frozen.load(model, "vae"), grey)[0].mean((1, 2, 3)).to(weight)
    bias.add_(pose.sum((2, 3, 4)) @ latents)
    pose.zero_()


def lora_config(config: AdapterConfig) -> LoraConfig:
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
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

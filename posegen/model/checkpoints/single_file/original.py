"""What a single file of Wan holds, under its original names, and the model that the shapes in it tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, TypeVar

import torch
from diffusers import WanTransformer3DModel

from posegen.model.checkpoints.names import (
    CheckpointError,
    check_complete,
    check_shape,
    diffusers_name,
    published_name,
)

PREFIXES = ("model.diffusion_model.", "diffusion_model.")
HEAD_DIM = 128  # of an attention head in all of Wan's models, which no shape tells

Shapes = Mapping[str, Sequence[int]]
Part = TypeVar("Part")


def without_prefix(parts: Mapping[str, Part], where: object) -> dict[str, Part]:
    """The parts of a file by names without the prefix that ComfyUI's files may give them."""
    plain: dict[str, Part] = {}
    for key, part in parts.items():
        prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), "")
        name = key.removeprefix(prefix)
        if name in plain:
            raise CheckpointError(f"{where} has {name} twice, with a prefix and without: fetch it again.")
        plain[name] = part
    return plain


def diffusers_names(parts: Mapping[str, Part], where: object) -> dict[str, Part]:
    """The parts of a file by diffusers names; CheckpointError for a name that Wan does not have."""
    try:
        return {diffusers_name(name): part for name, part in parts.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None


def empty_wan(shapes: Shapes, where: object) -> WanTransformer3DModel:
    """A Wan image-to-video transformer on the meta device, whose tensors have just these names and `shapes`.

    Raises CheckpointError where they are not those of a Wan2.1 image-to-video model, all of it and nothing else.
    """
    with torch.device("meta"):
        wan = WanTransformer3DModel(**wan_config(shapes, where))
    expected = {name: tensor.shape for name, tensor in wan.state_dict().items()}
    for name, shape in shapes.items():
        check_shape(published_name(name), shape, expected.get(name), where)
    check_complete(shapes, expected, where, published_name)
    return wan


def wan_config(shapes: Shapes, where: object) -> dict[str, Any]:
    """Arguments of WanTransformer3DModel for tensors of these shapes, by diffusers names."""
    dim, channels, *patch = _shape(shapes, "patch_embedding.weight", 5, where)
    out_channels = _shape(shapes, "proj_out.weight", 2, where)[0] // prod(patch)
    if channels != 2 * out_channels + 4:
        raise CheckpointError(
            f"{where} is a Wan model with {channels} input channels, but an image-to-video one has "
            f"{2 * out_channels + 4} for {out_channels} latent channels: take Wan2.1's I2V or Fun InP weights."
        )
    if not any(name.startswith("condition_embedder.image_embedder.") for name in shapes):
        raise CheckpointError(
            f"{where} has no img_emb, so it sees no CLIP tokens, as models of Wan 2.2: take Wan2.1's I2V or Fun InP "
            "weights."
        )
    if dim % HEAD_DIM:
        raise CheckpointError(
            f"{where} is {dim} wide, which heads of {HEAD_DIM} do not divide: take Wan2.1's weights."
        )
    embedder = "condition_embedder"
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": dim // HEAD_DIM,
        "attention_head_dim": HEAD_DIM,
        "in_channels": channels,
        "out_channels": out_channels,
        "text_dim": _shape(shapes, f"{embedder}.text_embedder.linear_1.weight", 2, where)[1],
        "freq_dim": _shape(shapes, f"{embedder}.time_embedder.linear_1.weight", 2, where)[1],
        "ffn_dim": _shape(shapes, "blocks.0.ffn.net.0.proj.weight", 2, where)[0],
        "num_layers": 1
        + max(int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)", name))),
        "image_dim": _shape(shapes, f"{embedder}.image_embedder.ff.net.0.proj.weight", 2, where)[1],
        "added_kv_proj_dim": dim,
    }


def _shape(shapes: Shapes, name: str, dimensions: int, where: object) -> list[int]:
    shape = list(shapes.get(name, ()))
    if len(shape) != dimensions:
        found = f"of shape {shape}" if name in shapes else "missing"
        raise CheckpointError(
            f"{published_name(name)} is {found} in {where}: give a file of a whole Wan2.1 transformer."
        )
    return shape

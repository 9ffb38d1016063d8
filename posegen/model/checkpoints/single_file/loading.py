"""Loading a PoseGen transformer from a single file of plain Wan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from posegen.model.checkpoints.names import CheckpointError, Tensors, published_name, stays_float32
from posegen.model.checkpoints.reading import read_tensors
from posegen.model.checkpoints.single_file.original import diffusers_names, empty_wan, without_prefix
from posegen.model.transformer import PoseGenTransformer3DModel

PLAIN = (torch.float32, torch.float16, torch.bfloat16)


def load_single_file(
    path: str | Path, dtype: torch.dtype | None = None, **config: Any
) -> PoseGenTransformer3DModel:
    """A PoseGen transformer on the plain Wan image-to-video model of one file, in Wan's original names.

    path: a `.safetensors` file of Wan2.1 I2V or Wan2.1-Fun InP, names with or without `model.diffusion_model.` or
    `diffusion_model.` before them. dtype: float32, float16 or bfloat16, of the weights and for computing; that of the
    file's patch embedding by default. As in diffusers, the few tensors that need it are in float32. config: arguments
    of PoseGenTransformer3DModel that Wan lacks, such as `hand_projection`; see its `from_wan`.
    Raises CheckpointError where the file is damaged or is of another model, or a tensor in it is not known here.
    """
    path = Path(path)
    return PoseGenTransformer3DModel.from_wan(_load_safetensors(path, dtype), **config).eval()


def _load_safetensors(path: Path, dtype: torch.dtype | None) -> WanTransformer3DModel:
    weights = diffusers_names(without_prefix(read_tensors(path), path), path)
    wan = empty_wan({name: tensor.shape for name, tensor in weights.items()}, path)
    _check_plain(weights, path)
    wan.load_state_dict(in_dtype(wan, weights, dtype), assign=True)
    return wan


def _check_plain(weights: Tensors, path: Path) -> None:
    for name, tensor in weights.items():
        if tensor.dtype not in PLAIN:
            raise CheckpointError(
                f"{published_name(name)} in {path} is stored as {tensor.dtype}, which says nothing without a scale: "
                "take a file that holds its scales too."
            )


def in_dtype(wan: WanTransformer3DModel, weights: Tensors, dtype: torch.dtype | None) -> Tensors:
    """The weights in one dtype, that of the patch embedding by default, but for those that diffusers keeps exact."""
    dtype = dtype or weights["patch_embedding.weight"].dtype
    return {
        name: tensor.to(torch.float32 if stays_float32(wan, name) else dtype)
        for name, tensor in weights.items()
    }

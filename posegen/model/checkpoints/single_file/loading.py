"""Loading a PoseGen transformer from a single file of plain Wan."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from posegen.model.checkpoints.names import Tensors, stays_float32
from posegen.model.checkpoints.reading import read_header, read_tensors
from posegen.model.checkpoints.single_file.gguf_file import load_gguf
from posegen.model.checkpoints.single_file.original import diffusers_names, empty_wan, without_prefix
from posegen.model.checkpoints.single_file.scaled import take_scaled
from posegen.model.scaled_linear import ScaledLinear, expand
from posegen.model.transformer import PoseGenTransformer3DModel


def load_single_file(
    path: str | Path, dtype: torch.dtype | None = None, **config: Any
) -> PoseGenTransformer3DModel:
    """A PoseGen transformer on the plain Wan image-to-video model of one file, in Wan's original names.

    path: a `.safetensors` or `.gguf` file of Wan2.1 I2V or Wan2.1-Fun InP, names with or without
    `model.diffusion_model.` or `diffusion_model.` before them. Linears of fp8, int8 or a GGUF type stay so in memory,
    and are expanded one at a time. dtype: float32, float16 or bfloat16, of all other weights; that of the file's patch
    embedding by default. With a GGUF file inputs must be of this dtype. As in diffusers, the few tensors that need it
    are in float32. config: arguments of PoseGenTransformer3DModel that Wan lacks, such as `hand_projection`; those of a
    model folder, whose adapters are to fit, are its `arguments_beyond_wan`.
    Raises CheckpointError where the file is damaged or is of another model, or a tensor in it is not known here.
    """
    path = Path(path)
    load = load_gguf if path.suffix == ".gguf" else _load_safetensors
    return PoseGenTransformer3DModel.from_wan(load(path, dtype), **config).eval()


def arguments_beyond_wan(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in a transformer's configuration that PoseGen's takes and plain Wan's does not."""
    own, wan = (
        signature(kind.__init__).parameters for kind in (PoseGenTransformer3DModel, WanTransformer3DModel)
    )
    return {name: value for name, value in config.items() if name in own and name not in wan}


def _load_safetensors(path: Path, dtype: torch.dtype | None) -> WanTransformer3DModel:
    tensors = without_prefix(read_tensors(path), path)
    scaled = diffusers_names(take_scaled(tensors, read_header(path), path), path)
    weights = diffusers_names(tensors, path)
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    shapes |= {f"{module}.weight": part.weight.shape for module, part in scaled.items()}
    wan = empty_wan(shapes, path)
    for module, part in scaled.items():
        if stays_float32(wan, module):
            weights[f"{module}.weight"] = expand(part.weight, part.scale)
        else:
            wan.set_submodule(module, ScaledLinear(part.weight, part.scale, f"{module}.bias" in weights))
    # Only quantised weights are missing now; they are in place.
    wan.load_state_dict(_in_dtype(wan, weights, dtype), strict=False, assign=True)
    return wan


def _in_dtype(wan: WanTransformer3DModel, weights: Tensors, dtype: torch.dtype | None) -> Tensors:
    """The weights in one dtype, that of the patch embedding by default, but for those that diffusers keeps exact."""
    dtype = dtype or weights["patch_embedding.weight"].dtype
    return {
        name: tensor.to(torch.float32 if stays_float32(wan, name) else dtype)
        for name, tensor in weights.items()
    }

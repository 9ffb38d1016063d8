"""Plain Wan from a GGUF file, its linears quantised in memory, through diffusers' GGUF quantiser.

Tensors stay memory-mapped, so that loading takes no more than the file and processes share it; diffusers' own reader
copies them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import GGUFQuantizationConfig, WanTransformer3DModel

from posegen.model.checkpoints.names import CheckpointError, Tensors, published_name
from posegen.model.checkpoints.single_file.original import diffusers_names, empty_wan, without_prefix

ARCHITECTURE = "wan"


def load_gguf(path: Path, dtype: torch.dtype | None) -> WanTransformer3DModel:
    """The Wan image-to-video transformer of a GGUF file; raises CheckpointError like `load_single_file`.

    dtype: of products and of tensors that are not quantised, that of the file's patch embedding by default.
    """
    weights = diffusers_names(without_prefix(_read(path), path), path)
    wan = empty_wan({name: getattr(part, "quant_shape", part.shape) for name, part in weights.items()}, path)
    _check_linear(wan, weights, path)
    dtype = dtype or weights["patch_embedding.weight"].dtype
    with tempfile.TemporaryDirectory() as folder:
        wan.save_config(folder)
        return WanTransformer3DModel.from_single_file(
            weights, config=folder, dtype=dtype, quantization_config=GGUFQuantizationConfig(dtype)
        )


def _read(path: Path) -> Tensors:
    """The tensors of a GGUF file by the names in it, memory-mapped; writing to them does not change the file."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a GGUF file, which the package gguf reads: pip install 'posegen[gguf]'."
        ) from error
    try:
        reader = GGUFReader(path, "c")
        field = reader.get_field("general.architecture")
        architecture = field.contents() if field else "no architecture"
        tensors = {part.name: _tensor(part, path) for part in reader.tensors}
    except CheckpointError:
        raise
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): fetch it again.") from error
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"{path} is a model of {architecture}, not of {ARCHITECTURE}: take a file of Wan2.1."
        )
    return tensors


def _tensor(part: Any, path: Path) -> torch.Tensor:
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES, UNQUANTIZED_TYPES, GGUFParameter
    from gguf import GGMLQuantizationType

    data = torch.from_numpy(part.data)
    if part.tensor_type == GGMLQuantizationType.BF16:  # whose bytes diffusers would take for quantised ones
        return data.view(torch.bfloat16)
    if part.tensor_type in UNQUANTIZED_TYPES:
        return data
    if part.tensor_type not in SUPPORTED_GGUF_QUANT_TYPES:
        raise CheckpointError(
            f"{part.name} in {path} is stored as {part.tensor_type.name}, which diffusers does not know: take a file "
            "of Q8_0, Q6_K, Q5_K, Q4_K or Q4_0."
        )
    return GGUFParameter(data, quant_type=part.tensor_type)


def _check_linear(wan: WanTransformer3DModel, weights: Tensors, path: Path) -> None:
    """Raise CheckpointError where anything but a linear's weight is quantised."""
    for name, tensor in weights.items():
        module, _, kind = name.rpartition(".")
        linear = kind == "weight" and isinstance(wan.get_submodule(module), torch.nn.Linear)
        if hasattr(tensor, "quant_shape") and not linear:
            raise CheckpointError(
                f"{published_name(name)} in {path} is quantised, which only weights of linear layers may be: take "
                "another file."
            )

"""Quantised weights and their scales in a safetensors file, as ComfyUI and its converters write them.

A weight `X.weight` of fp8 or int8 has a scale, `X.scale_weight` in older files (which hold a marker, `scaled_fp8`, too)
or `X.weight_scale`: one number, one a row, or one a block. Newer files also say the format of each layer, as JSON in a
tensor `X.comfy_quant` or for all layers in the header's `_quantization_metadata`. What a scale for activations says
(`X.scale_input`, `X.input_scale`) is of use to products in fp8 alone, and is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from posegen.model.checkpoints.names import CheckpointError, Tensors
from posegen.model.checkpoints.single_file.original import without_prefix

PLAIN = (torch.float32, torch.float16, torch.bfloat16)
MARKER = "scaled_fp8"
SCALES = ("scale_weight", "weight_scale")
INPUT_SCALES = ("scale_input", "input_scale")
HEADER = "_quantization_metadata"
SETTINGS = "comfy_quant"
FORMATS = {
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e4m3fn_rowwise": torch.float8_e4m3fn,
    "float8_e4m3fn_blockwise": torch.float8_e4m3fn,
    "float8_e4m3fn_block3d": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "int8_tensorwise": torch.int8,
    "int8_blockwise": torch.int8,
}
NEEDLESS = (
    "format",
    "full_precision_matrix_mult",
    "orig_dtype",
    "orig_shape",
    "per_row",
    "convrot_groupsize",
)
"""Settings of a layer that its tensors say too, or that are about products in 8 bits."""


@dataclass(frozen=True)
class ScaledWeight:
    """A weight (out, in) of an 8-bit dtype, and the scale (rows, columns) float32 of its blocks."""

    weight: torch.Tensor
    scale: torch.Tensor


def take_scaled(tensors: Tensors, header: Mapping[str, str], where: object) -> dict[str, ScaledWeight]:
    """Take the quantised weights, and all that is said of them, out of a file's tensors; by names of their modules.

    Raises CheckpointError for a weight without a scale, a scale without a weight, and for what changes the meaning of a
    weight in a way that is not known here, such as a rotation.
    """
    tensors.pop(MARKER, None)
    settings = _take_settings(tensors, header, where)
    found: dict[str, ScaledWeight] = {}
    for name in [name for name, tensor in tensors.items() if tensor.dtype not in PLAIN]:
        module, _, kind = name.rpartition(".")
        if kind != "weight" or tensors[name].ndim != 2:
            raise CheckpointError(
                f"{name} in {where} is stored as {tensors[name].dtype}, which only weights of linear layers may be: "
                "take another file."
            )
        weight = _stored(name, tensors.pop(name), settings.pop(module, {}), where)
        found[module] = ScaledWeight(weight, _take_scale(module, weight, tensors, where))
    if settings:
        raise CheckpointError(
            f"{where} says that {next(iter(settings))} is quantised, but it is not: fetch it again."
        )
    for name in tensors:
        if name.rpartition(".")[2] in (*SCALES, *INPUT_SCALES):
            raise CheckpointError(
                f"{where} has {name}, a scale whose weight is not quantised: fetch it again."
            )
    return found


def _take_settings(tensors: Tensors, header: Mapping[str, str], where: object) -> dict[str, dict[str, Any]]:
    """What the file says of each quantised layer."""
    try:
        said = json.loads(header.get(HEADER, '{"layers": {}}'))["layers"]
        settings = without_prefix({module: dict(said[module]) for module in said}, where)
        for name in [name for name in tensors if name.endswith(f".{SETTINGS}")]:
            text = bytes(tensors.pop(name).tolist()).decode()
            settings[name.removesuffix(f".{SETTINGS}")] = dict(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"What {where} says of its quantised layers cannot be read ({error!r}): fetch it again."
        ) from error
    return settings


def _stored(name: str, weight: torch.Tensor, settings: Mapping[str, Any], where: object) -> torch.Tensor:
    """The weight in the dtype that its layer's settings say, where they say one."""
    if settings.get("convrot", "convrot_groupsize" in settings):
        raise CheckpointError(
            f"{name} in {where} is rotated (convrot), so it needs rotated activations too: take a file that is not."
        )
    strange = [key for key, value in settings.items() if value and key not in NEEDLESS]
    if strange:
        raise CheckpointError(
            f"{where} sets {strange[0]} for {name}, which is not known here: take another file."
        )
    dtype = FORMATS.get(settings["format"]) if "format" in settings else weight.dtype
    if dtype is None or dtype not in FORMATS.values():
        raise CheckpointError(
            f"{name} in {where} is stored as {settings.get('format', weight.dtype)}, which is not known here: take a "
            "file of fp8 or int8 with scales, or a GGUF file."
        )
    if weight.dtype == torch.uint8:  # which may hold the bytes of any of them
        weight = weight.view(dtype)
    if weight.dtype != dtype:
        raise CheckpointError(
            f"{name} in {where} is stored as {weight.dtype}, but called {settings['format']}: fetch it again."
        )
    return weight


def _take_scale(module: str, weight: torch.Tensor, tensors: Tensors, where: object) -> torch.Tensor:
    """The scale of a module's weight, (rows, columns) float32."""
    for name in INPUT_SCALES:
        tensors.pop(f"{module}.{name}", None)
    scales = [tensors.pop(name) for kind in SCALES if (name := f"{module}.{kind}") in tensors]
    if len(scales) != 1:
        raise CheckpointError(
            f"{where} has {'two scales' if scales else 'no scale'} for {module}.weight, which is stored as "
            f"{weight.dtype}: take a file with one scale for each quantised weight."
        )
    scale = scales[0].float()
    if scale.numel() == 1:
        return scale.reshape(1, 1)
    if scale.ndim == 3 and scale.shape[2] == 1:  # blocks along a row, as some converters write them
        scale = scale.squeeze(2)
    rows, columns = scale.shape if scale.ndim == 2 else (scale.numel(), 1)
    outputs, inputs = weight.shape
    if (
        scale.ndim > 2
        or 0 in scale.shape
        or outputs % rows
        or inputs % columns
        or not _are_blocks(weight.shape, rows, columns)
    ):
        raise CheckpointError(
            f"The scale of {module}.weight in {where} has shape {list(scale.shape)}, which is neither one number nor "
            f"one a row or a block of {list(weight.shape)}: fetch it again."
        )
    return scale.reshape(rows, columns)


def _are_blocks(shape: Sequence[int], rows: int, columns: int) -> bool:
    """Whether scales (rows, columns) are of single rows, or parts of them, or of squares; one may be cut at an edge."""
    height, width = shape[0] // rows, shape[1] // columns
    cut = (rows == 1 and height < width) or (columns == 1 and width < height)
    return height == 1 or height == width or cut

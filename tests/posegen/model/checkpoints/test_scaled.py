"""Files of fp8 and int8 weights with scales: every spelling, every shape of scale, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from posegen.model.checkpoints import (
    Adapter,
    CheckpointError,
    attach_adapter,
    diffusers_name,
    load_single_file,
    model_weights,
)
from posegen.model.scaled_linear import ScaledLinear, use_fp8_products
from posegen.model.transformer import PoseGenTransformer3DModel
from testkit.single_files import (
    as_bytes,
    linear_modules,
    original_tensors,
    output,
    quantised,
    relative_error,
    tiny_wan,
    write,
)

Tensors = dict[str, torch.Tensor]

E4M3, E5M2, INT8 = torch.float8_e4m3fn, torch.float8_e5m2, torch.int8
FORMATS = {
    E4M3: "float8_e4m3fn",
    E5M2: "float8_e5m2",
    INT8: "int8_tensorwise",
}
# A weight is off by half of its last bit at most: 2^-4 (e4m3, three bits after the first) or 2^-3 (e5m2, two), and by
# some 0.4 of that on average; int8 by half of a 127th of the largest in its block, here four times as large as most.
# What comes out is off by less than one weight may be, as errors in different weights are independent.
BOUNDS = {E4M3: 2**-4, E5M2: 2**-3, INT8: 2**-6}


def parts(dtype: torch.dtype, blocks: tuple[int, int] = (0, 0)) -> tuple[Tensors, Tensors]:
    wan = tiny_wan()
    return quantised(original_tensors(wan), linear_modules(wan), dtype, blocks)


def old_spelling(stored: Tensors, scales: Tensors) -> tuple[Tensors, dict[str, str]]:
    dtype = next(stored[f"{module}.weight"].dtype for module in scales)
    said = {"scaled_fp8": torch.empty(0, dtype=dtype)}
    said |= {f"{module}.scale_weight": scale.squeeze() for module, scale in scales.items()}
    said |= {f"{module}.scale_input": torch.tensor(1.0) for module in scales}
    return stored | said, {}


def tensor_spelling(stored: Tensors, scales: Tensors, **settings: Any) -> tuple[Tensors, dict[str, str]]:
    said: Tensors = {}
    for module, scale in scales.items():
        told = {"format": FORMATS[stored[f"{module}.weight"].dtype], **settings}
        said |= {f"{module}.weight_scale": scale, f"{module}.comfy_quant": as_bytes(json.dumps(told))}
    return stored | said, {}


def header_spelling(stored: Tensors, scales: Tensors) -> tuple[Tensors, dict[str, str]]:
    layers = {module: {"format": FORMATS[stored[f"{module}.weight"].dtype]} for module in scales}
    header = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    return stored | {f"{module}.weight_scale": scale for module, scale in scales.items()}, header


def expanded_output(stored: Tensors, scales: Tensors) -> torch.Tensor:
    """What the model makes with each weight replaced by its values times its scales."""
    wan: Any = tiny_wan()
    for module, scale in scales.items():
        weight = stored[f"{module}.weight"].float()
        steps = [size // count for size, count in zip(weight.shape, scale.shape, strict=True)]
        by_value = scale.repeat_interleave(steps[0], 0).repeat_interleave(steps[1], 1)
        wan.get_submodule(diffusers_name(module)).weight.data = weight * by_value
    return output(PoseGenTransformer3DModel.from_wan(wan))


@pytest.mark.parametrize("spelled", [old_spelling, tensor_spelling, header_spelling])
@pytest.mark.parametrize("dtype", [E4M3, E5M2, INT8])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_one_scale_for_a_weight(
    tmp_path: Path, spelled: Callable[[Tensors, Tensors], Any], dtype: torch.dtype, prefix: str
) -> None:
    stored, scales = parts(dtype)
    tensors, header = spelled(stored, scales)
    found = output(load_single_file(write(tmp_path / "wan.safetensors", tensors, prefix, header)))
    assert relative_error(found, expanded_output(stored, scales)) < 1e-5  # float32 both ways
    assert relative_error(found, output(PoseGenTransformer3DModel.from_wan(tiny_wan()))) < BOUNDS[dtype]


SHAPES: dict[str, tuple[tuple[int, int], Callable[[torch.Tensor], torch.Tensor]]] = {
    "one a row": ((1, 0), lambda scale: scale),
    "one a row, as a list": ((1, 0), lambda scale: scale.flatten()),
    "one a square": ((128, 128), lambda scale: scale),
    "one for 64 of a row": ((1, 64), lambda scale: scale[..., None]),
    "one, as a list": ((0, 0), lambda scale: scale.flatten()),
    "one, in half precision": ((0, 0), lambda scale: scale.half().squeeze()),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [E4M3, INT8])
def test_scales_of_every_shape(tmp_path: Path, shape: str, dtype: torch.dtype) -> None:
    blocks, spelled = SHAPES[shape]
    stored, scales = parts(dtype, blocks)
    if shape == "one, in half precision":
        scales = {module: scale.half().float() for module, scale in scales.items()}
    tensors = stored | {f"{module}.weight_scale": spelled(scale) for module, scale in scales.items()}
    found = output(load_single_file(write(tmp_path / "wan.safetensors", tensors)))
    assert relative_error(found, expanded_output(stored, scales)) < 1e-5
    assert relative_error(found, output(PoseGenTransformer3DModel.from_wan(tiny_wan()))) < BOUNDS[dtype]


def test_a_square_may_be_cut_at_the_edge(tmp_path: Path) -> None:
    """The head has 64 rows, less than a square of 128."""
    stored, scales = quantised(original_tensors(tiny_wan()), ["head.head"], E4M3, (64, 128))
    assert scales["head.head"].shape == (1, 2)
    tensors = stored | {"head.head.weight_scale": scales["head.head"]}
    found = output(load_single_file(write(tmp_path / "wan.safetensors", tensors)))
    assert relative_error(found, expanded_output(stored, scales)) < 1e-5


def test_fp8_as_plain_bytes(tmp_path: Path) -> None:
    stored, scales = parts(E4M3)
    tensors, _ = tensor_spelling(stored, scales)
    for module in scales:
        tensors[f"{module}.weight"] = tensors[f"{module}.weight"].view(torch.uint8)
    found = output(load_single_file(write(tmp_path / "wan.safetensors", tensors)))
    assert relative_error(found, expanded_output(stored, scales)) < 1e-5


def test_a_layer_that_computes_in_float32_is_expanded(tmp_path: Path) -> None:
    wan = tiny_wan()
    modules = ["time_embedding.0", "time_embedding.2", "time_projection.1", "head.head"]
    stored, scales = quantised(original_tensors(wan), modules, E4M3)
    tensors, _ = old_spelling(stored, scales)
    transformer: Any = load_single_file(write(tmp_path / "wan.safetensors", tensors))
    assert transformer.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert isinstance(transformer.proj_out, ScaledLinear)
    assert relative_error(output(transformer), expanded_output(stored, scales)) < 1e-5


def load_fp8(tmp_path: Path, dtype: torch.dtype | None = None) -> Any:
    tensors, header = old_spelling(*parts(E4M3))
    return load_single_file(write(tmp_path / "wan.safetensors", tensors, "", header), dtype)


def test_weights_stay_quantised_whatever_the_model_is_moved_to(tmp_path: Path) -> None:
    exact = output(load_fp8(tmp_path))
    transformer = load_fp8(tmp_path)
    layer = transformer.blocks[0].attn1.to_q
    weight, scale = layer.weight.clone(), layer.weight_scale.clone()
    transformer.to(torch.bfloat16)
    assert transformer.dtype == torch.bfloat16
    assert layer.weight.element_size() == 1 and torch.equal(layer.weight, weight)
    assert layer.weight_scale.dtype == torch.float32 and torch.equal(layer.weight_scale, scale)
    # 2^-9 for each rounding of weights and activations to bfloat16, some ten in a row
    assert relative_error(output(load_fp8(tmp_path, torch.bfloat16), torch.bfloat16), exact) < 10 * 2**-8
    meta = load_fp8(tmp_path).to("meta").blocks[0].attn1.to_q
    assert meta.weight.is_meta and meta.weight_scale.is_meta


def test_adapters_work_on_top(tmp_path: Path) -> None:
    transformer = load_fp8(tmp_path)
    module = "blocks.0.attn1.to_q"
    layer = transformer.get_submodule(module)
    torch.manual_seed(1)
    down, up = torch.randn(4, 256), torch.randn(256, 4) / 16
    adapter = Adapter(
        LoraConfig(r=4, lora_alpha=4, target_modules=[module]),
        {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up},
    )
    attach_adapter(transformer, adapter, "base")
    plain = torch.nn.Linear(256, 256)
    plain.weight.data, plain.bias.data = layer.expanded(torch.float32) + up @ down, layer.bias.data
    merged = load_fp8(tmp_path)
    merged.set_submodule(module, plain)
    assert relative_error(output(transformer), output(merged)) < 1e-5
    assert relative_error(output(transformer), output(load_fp8(tmp_path))) > 1e-3


@pytest.mark.parametrize("blocks", [(0, 0), (1, 0)])
def test_products_in_fp8(tmp_path: Path, blocks: tuple[int, int]) -> None:
    tensors, header = header_spelling(*parts(E4M3, blocks))
    transformer = load_single_file(write(tmp_path / "wan.safetensors", tensors, "", header))
    exact = output(transformer)
    assert use_fp8_products(transformer) == 2 * 12  # blocks times linears
    # Activations are rounded like the weights were.
    assert 0 < relative_error(output(transformer), exact) < BOUNDS[E4M3]


def test_a_quantised_transformer_is_not_saved_as_if_it_were_plain(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attn1\.to_q\.weight is quantised.*adapters alone"):
        model_weights(load_fp8(tmp_path))
    with pytest.raises(ValueError, match="cannot be saved; keep the file"):
        load_fp8(tmp_path).save_pretrained(tmp_path / "saved")


LAYER = "blocks.0.self_attn.q"


def say(**settings: Any) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({f"{LAYER}.comfy_quant": as_bytes(json.dumps(settings))})


def put(name: str, tensor: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensor})


DAMAGES: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "no scale": (lambda tensors: tensors.pop(f"{LAYER}.scale_weight"), rf"no scale for {LAYER}\.weight"),
    "two scales": (put(f"{LAYER}.weight_scale", torch.ones(1)), rf"two scales for {LAYER}\.weight"),
    "a scale of no weight": (
        put("head.head.scale_weight", torch.ones(1)),
        r"head\.head\.scale_weight, a scale whose weight is not quantised",
    ),
    "a scale of nothing": (
        put("x.scale_input", torch.ones(1)),
        r"x\.scale_input, a scale whose weight is not quantised",
    ),
    "a scale of another shape": (
        put(f"{LAYER}.scale_weight", torch.ones(1, 256)),
        rf"scale of {LAYER}\.weight .* shape \[1, 256\]",
    ),
    "an empty scale": (
        put(f"{LAYER}.scale_weight", torch.ones(0)),
        rf"scale of {LAYER}\.weight .* shape \[0\]",
    ),
    "blocks that do not fit": (
        put(f"{LAYER}.scale_weight", torch.ones(3, 3)),
        rf"scale of {LAYER}\.weight .* shape \[3, 3\]",
    ),
    "smoothing": (
        put(f"{LAYER}.pre_quant_scale", torch.ones(256)),
        rf"{LAYER}\.pre_quant_scale, which this model does not have",
    ),
    "a second scale": (
        put(f"{LAYER}.weight_scale_2", torch.ones(1)),
        rf"{LAYER}\.weight_scale_2, which this model does not have",
    ),
    "rotation": (
        say(format="float8_e4m3fn", convrot=True, convrot_groupsize=256),
        rf"{LAYER}\.weight in .* is rotated \(convrot\)",
    ),
    "a format that is not known": (say(format="nvfp4"), r"stored as nvfp4, which is not known here"),
    "another format than its dtype": (
        say(format="int8_tensorwise"),
        r"stored as torch\.float8_e4m3fn, but called int8_tensorwise",
    ),
    "a setting that is not known": (
        say(format="float8_e4m3fn", shuffled=True),
        rf"sets shuffled for {LAYER}\.weight",
    ),
    "settings that are no JSON": (
        put(f"{LAYER}.comfy_quant", as_bytes("{")),
        r"says of its quantised layers cannot be read",
    ),
    "settings of a plain layer": (
        put("head.head.comfy_quant", as_bytes('{"format": "float8_e4m3fn"}')),
        r"says that head\.head is quantised, but it is not",
    ),
    "bytes of no format": (
        put(f"{LAYER}.weight", torch.zeros(256, 256, dtype=torch.uint8)),
        r"stored as torch\.uint8, which is not known here",
    ),
    "a quantised bias": (
        put(f"{LAYER}.bias", torch.zeros(256, dtype=torch.int8)),
        rf"{LAYER}\.bias .* torch\.int8, which only weights of linear layers",
    ),
    "a quantised convolution": (
        put("patch_embedding.weight", torch.zeros(256, 36, 1, 2, 2).to(E4M3)),
        r"patch_embedding\.weight .* only weights of linear layers",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_understood_is_refused_in_a_sentence(tmp_path: Path, damage: str) -> None:
    apply, words = DAMAGES[damage]
    tensors, header = old_spelling(*parts(E4M3))
    apply(tensors)
    path = write(tmp_path / "wan.safetensors", tensors, "", header)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_single_file(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("settings", [{"convrot": True}, {"convrot": True, "convrot_groupsize": 256}])
def test_rotated_int8_is_refused_in_a_sentence(tmp_path: Path, settings: dict[str, Any]) -> None:
    tensors, _ = tensor_spelling(*parts(INT8, (1, 0)), **settings)
    with pytest.raises(CheckpointError, match=r"is rotated \(convrot\).*take a file that is not"):
        load_single_file(write(tmp_path / "wan.safetensors", tensors))


@pytest.mark.parametrize("header", ["{", "[]", '{"layers": 3}', '{"layers": {"x": 1}}'])
def test_a_header_that_cannot_be_read_is_refused(tmp_path: Path, header: str) -> None:
    tensors, _ = old_spelling(*parts(E4M3))
    path = write(tmp_path / "wan.safetensors", tensors, "", {"_quantization_metadata": header})
    with pytest.raises(CheckpointError, match="says of its quantised layers cannot be read"):
        load_single_file(path)

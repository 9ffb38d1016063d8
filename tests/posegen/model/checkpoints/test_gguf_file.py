"""GGUF files of every type that people have, adapters on top, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import GGUFQuantizationConfig, WanTransformer3DModel
from diffusers.quantizers.gguf.utils import GGUFLinear
from gguf import GGMLQuantizationType as Type

from posegen.distributed.shared_weights import load_shared, share
from posegen.model.checkpoints import (
    CheckpointError,
    diffusers_name,
    load_lora,
    load_single_file,
    model_weights,
)
from posegen.model.transformer import PoseGenTransformer3DModel
from testkit.gguf_files import write_gguf
from testkit.lora_files import distillation_file, merged, random_matrices, with_differences
from testkit.single_files import linear_modules, original_tensors, output, relative_error, tiny_wan

Tensors = dict[str, torch.Tensor]

# Half a step between levels, as a share of the largest weight in a block. What comes out is off by less, as errors in
# different weights are independent and most are smaller.
BOUNDS = {
    Type.Q8_0: 1 / 2 / 127,
    Type.Q6_K: 1 / 2 / 31,
    Type.Q5_K: 1 / 31,  # 31 steps from the lowest to the highest
    Type.Q4_K: 1 / 15,
    Type.Q4_0: 1 / 2 / 8,
}


def replaced(tensors: Tensors) -> Any:
    """The tiny Wan with other weights, by original names."""
    wan = tiny_wan()
    wan.load_state_dict({diffusers_name(name): tensor for name, tensor in tensors.items()})
    return wan


def write_tiny(path: Path, kind: Type, prefix: str = "", **changes: torch.Tensor) -> Tensors:
    """A GGUF file of the tiny Wan; returns what it unpacks to, without the prefix."""
    wan = tiny_wan()
    tensors = {f"{prefix}{name}": tensor for name, tensor in (original_tensors(wan) | changes).items()}
    unpacked = write_gguf(path, tensors, [f"{prefix}{module}" for module in linear_modules(wan)], kind)
    return {name.removeprefix(prefix): tensor for name, tensor in unpacked.items()}


@pytest.mark.parametrize("kind", BOUNDS)
def test_every_type(tmp_path: Path, kind: Type) -> None:
    unpacked = write_tiny(tmp_path / "wan.gguf", kind)
    transformer: Any = load_single_file(tmp_path / "wan.gguf")
    assert isinstance(transformer.blocks[0].attn1.to_q, GGUFLinear) and not transformer.training
    found = output(transformer)
    # diffusers unpacks scales as float16, which rounds a product of two by up to 2^-12.
    assert relative_error(found, output(PoseGenTransformer3DModel.from_wan(replaced(unpacked)))) < 2**-11
    assert relative_error(found, output(PoseGenTransformer3DModel.from_wan(tiny_wan()))) < BOUNDS[kind]


def test_processes_share_it(tmp_path: Path) -> None:
    write_tiny(tmp_path / "wan.gguf", Type.Q4_K)
    transformer: Any = load_single_file(tmp_path / "wan.gguf")
    expected = output(transformer)
    shared = share(transformer)
    loaded = load_shared(shared.content)
    assert isinstance(loaded.blocks[0].attn1.to_q, GGUFLinear)
    assert torch.equal(output(loaded), expected) and torch.equal(output(transformer), expected)


@pytest.mark.parametrize("kind", [Type.BF16, Type.F16])
def test_a_file_that_is_not_quantised(tmp_path: Path, kind: Type) -> None:
    unpacked = write_tiny(tmp_path / "wan.gguf", kind)
    transformer: Any = load_single_file(tmp_path / "wan.gguf")
    assert type(transformer.blocks[0].attn1.to_q) is torch.nn.Linear
    expected = output(PoseGenTransformer3DModel.from_wan(replaced(unpacked)))
    assert relative_error(output(transformer), expected) < 1e-5


def test_a_prefix_and_another_dtype_for_computing(tmp_path: Path) -> None:
    write_tiny(tmp_path / "wan.gguf", Type.Q8_0, "model.diffusion_model.")
    exact = output(load_single_file(tmp_path / "wan.gguf"))
    transformer: Any = load_single_file(tmp_path / "wan.gguf", torch.bfloat16, hand_projection=True)
    assert transformer.dtype == torch.bfloat16 and transformer.config.hand_projection
    assert transformer.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    # 2^-9 for each rounding of weights and activations to bfloat16, some ten in a row
    assert relative_error(output(transformer, torch.bfloat16), exact) < 10 * 2**-8


def test_a_layer_that_computes_in_float32_is_unpacked(tmp_path: Path) -> None:
    tensors = original_tensors(tiny_wan())
    unpacked = write_gguf(tmp_path / "wan.gguf", tensors, ["time_embedding.0", "head.head"], Type.Q8_0)
    transformer: Any = load_single_file(tmp_path / "wan.gguf")
    assert transformer.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert isinstance(transformer.proj_out, GGUFLinear)
    expected = output(PoseGenTransformer3DModel.from_wan(replaced(unpacked)))
    assert relative_error(output(transformer), expected) < 2**-11


def test_loras_work_on_top(tmp_path: Path) -> None:
    wan = tiny_wan()
    unpacked = write_tiny(tmp_path / "wan.gguf", Type.Q4_K)
    matrices = random_matrices(wan)
    differences = {
        "blocks.0.ffn.2.diff": 0.05 * torch.randn(256, 512),
        "blocks.1.diff_m": torch.randn(1, 6, 256),
    }
    transformer = load_single_file(tmp_path / "wan.gguf")
    load_lora(transformer, distillation_file(matrices, differences, tmp_path), "fast", 0.5)
    plain = with_differences(merged(replaced(unpacked), matrices, 0.5), differences, 0.5)
    assert relative_error(output(transformer), output(PoseGenTransformer3DModel.from_wan(plain))) < 2**-11
    assert isinstance(transformer.get_submodule("blocks.0.attn1.to_q.base_layer"), GGUFLinear)
    with pytest.raises(CheckpointError, match="is quantised, so this transformer cannot be saved"):
        model_weights(transformer)
    with pytest.raises(ValueError, match="not serializable"):
        transformer.save_pretrained(tmp_path / "saved")


def test_a_wan_that_diffusers_loaded_becomes_a_posegen_transformer(tmp_path: Path) -> None:
    write_tiny(tmp_path / "wan.gguf", Type.Q5_K)
    tiny_wan().save_config(tmp_path)
    wan = WanTransformer3DModel.from_single_file(
        str(tmp_path / "wan.gguf"), config=str(tmp_path), quantization_config=GGUFQuantizationConfig()
    )
    found = output(PoseGenTransformer3DModel.from_wan(wan))
    assert torch.equal(found, output(load_single_file(tmp_path / "wan.gguf")))


def rewrite(tensors: Tensors, modules: list[str], kind: Type, **settings: Any) -> Callable[[Path], object]:
    return lambda path: write_gguf(path, tensors, modules, kind, **settings)


def damages() -> dict[str, tuple[Callable[[Path], object], str]]:
    wan = tiny_wan()
    tensors, modules = original_tensors(wan), linear_modules(wan)
    without = {name: tensor for name, tensor in tensors.items() if name != "blocks.1.ffn.0.bias"}
    return {
        "another architecture": (
            rewrite(tensors, modules, Type.Q8_0, architecture="flux"),
            "is a model of flux, not of wan",
        ),
        "a tensor missing": (rewrite(without, modules, Type.Q8_0), r"lacks blocks\.1\.ffn\.0\.bias"),
        "a tensor that Wan lacks": (
            rewrite(tensors | {"vae.x": torch.zeros(1)}, modules, Type.Q8_0),
            r"vae\.x is not the name of a tensor",
        ),
        "another shape": (
            rewrite(tensors | {"blocks.0.ffn.2.weight": torch.ones(256, 256)}, modules, Type.Q8_0),
            r"blocks\.0\.ffn\.2\.weight .*\[256, 256\].*\[256, 512\]",
        ),
        "a type that diffusers does not know": (
            rewrite(tensors, modules, Type.TQ2_0),
            r"is stored as TQ2_0, which diffusers does not know",
        ),
        "a quantised norm": (
            rewrite(tensors, ["blocks.0.norm3"], Type.Q8_0),
            r"blocks\.0\.norm3\.weight in .* is quantised, which only weights of linear layers",
        ),
        "no GGUF file": (lambda path: path.write_bytes(b"0" * 999), "cannot be read"),
        "an empty file": (lambda path: path.write_bytes(b""), "cannot be read"),
        "a truncated file": (
            lambda path: (write_tiny(path, Type.Q8_0), path.write_bytes(path.read_bytes()[:200_000])),
            "cannot be read",
        ),
    }


@pytest.mark.parametrize("damage", damages())
def test_a_file_that_is_not_understood_is_refused_in_a_sentence(tmp_path: Path, damage: str) -> None:
    apply, words = damages()[damage]
    path = tmp_path / "wan.gguf"
    apply(path)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_single_file(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_without_the_package_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"pip install 'posegen\[gguf\]'"):
        load_single_file(tmp_path / "wan.gguf")

"""Single files of plain Wan: names, prefixes, dtypes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from posegen.model.checkpoints import (
    CheckpointError,
    arguments_beyond_wan,
    load_adapter,
    load_single_file,
    model_weights,
    published_name,
)
from posegen.model.checkpoints.single_file.original import empty_wan, wan_config
from posegen.model.transformer import PoseGenTransformer3DModel
from testkit.published_folders import TINY, tiny_converted, transformer_of
from testkit.published_folders import output as published_output
from testkit.single_files import original_tensors, output, quantised, relative_error, tiny_wan, write

Tensors = dict[str, torch.Tensor]


def expected_output() -> torch.Tensor:
    return output(PoseGenTransformer3DModel.from_wan(tiny_wan()))


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_a_file_is_the_model_it_was_made_of(tmp_path: Path, prefix: str) -> None:
    path = write(tmp_path / "wan.safetensors", original_tensors(tiny_wan()), prefix)
    transformer = load_single_file(path)
    assert not transformer.training
    assert torch.equal(output(transformer), expected_output())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_or_widened(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in original_tensors(tiny_wan()).items()}
    path = write(tmp_path / "wan.safetensors", tensors)
    stored: Any = load_single_file(path)
    assert stored.blocks[0].attn1.to_q.weight.dtype == dtype
    assert stored.blocks[0].scale_shift_table.dtype == torch.float32
    # Weights are off by half of the last bit, at random: 2^-9 (bfloat16) or 2^-12 each, and little more in the output.
    bound = 2 * torch.finfo(dtype).eps
    assert relative_error(output(load_single_file(path, torch.float32)), expected_output()) < bound
    # The activations are rounded too here, some ten times in a row.
    assert relative_error(output(stored, dtype), expected_output()) < 5 * bound


def test_a_file_of_mixed_dtypes_computes_in_one(tmp_path: Path) -> None:
    tensors = original_tensors(tiny_wan())
    mixed = {name: part.bfloat16() if "ffn" in name else part for name, part in tensors.items()}
    transformer = load_single_file(write(tmp_path / "wan.safetensors", mixed), torch.bfloat16)
    assert output(transformer, torch.bfloat16).isfinite().all()


def test_arguments_that_wan_lacks_are_passed_on(tmp_path: Path) -> None:
    path = write(tmp_path / "wan.safetensors", original_tensors(tiny_wan()))
    transformer: Any = load_single_file(path, hand_projection=True, shift_reference=False)
    assert transformer.config.hand_projection and not transformer.config.shift_reference


@pytest.mark.parametrize(("dtype", "bound"), [(None, 1e-5), (torch.float8_e4m3fn, 2**-4)])
def test_published_adapters_fit_on_a_single_file(
    tmp_path: Path, dtype: torch.dtype | None, bound: float
) -> None:
    """What a converted model makes with an adapter, a single file of its base model makes too."""
    settings = TINY | {"dim": 256, "ffn_dim": 512, "use_hand_proj": True}
    converted = tiny_converted(tmp_path, settings)
    published = transformer_of(converted, "base")
    weights = model_weights(published)
    tensors = {
        published_name(name): tensor
        for name, tensor in weights.items()
        if not name.startswith(("reference_", "hand_"))
    }
    if dtype is not None:
        linears = [name for name, part in tensors.items() if name.startswith("blocks.") and part.ndim == 2]
        modules = [name.removesuffix(".weight") for name in linears]
        stored, scales = quantised(tensors, modules, dtype, (1, 0))
        tensors = stored | {f"{module}.weight_scale": scale for module, scale in scales.items()}
    config = PoseGenTransformer3DModel.load_config(converted / "transformer")
    assert arguments_beyond_wan(config)["hand_projection"]
    path = write(tmp_path / "wan.safetensors", tensors)
    transformer = load_single_file(path, **arguments_beyond_wan(config))
    load_adapter(transformer, converted / "adapters" / "base", "base")
    assert relative_error(published_output(transformer), published_output(published)) < bound


@pytest.mark.parametrize(("heads", "ffn", "layers"), [(40, 13824, 40), (12, 8960, 30)])
def test_published_models_are_known_by_their_shapes(heads: int, ffn: int, layers: int) -> None:
    """Wan2.1 I2V 14B and Wan2.1-Fun 1.3B InP."""
    config: dict[str, Any] = {
        "in_channels": 36,
        "num_attention_heads": heads,
        "ffn_dim": ffn,
        "num_layers": layers,
    }
    with torch.device("meta"):
        wan = WanTransformer3DModel(**config, image_dim=1280, added_kv_proj_dim=heads * 128)
    shapes = {name: part.shape for name, part in wan.state_dict().items()}
    found = empty_wan(shapes, "wan.safetensors")
    assert all(value == found.config[name] for name, value in wan.config.items() if name[0] != "_")


def change(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: make(tensors[name])})


DAMAGES: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "a tensor missing": (
        lambda tensors: tensors.pop("blocks.1.ffn.0.bias"),
        r"lacks blocks\.1\.ffn\.0\.bias \(tensors missing: 1\)",
    ),
    "a tensor that Wan lacks": (
        lambda tensors: tensors.update({"vae.conv1.weight": torch.zeros(1)}),
        r"wan\.safetensors: vae\.conv1\.weight is not the name of a tensor",
    ),
    "a tensor of PoseGen": (
        lambda tensors: tensors.update({"ref_patch_embedding.bias": torch.zeros(1)}),
        r"has ref_patch_embedding\.bias, which this model does not have",
    ),
    "another shape": (
        change("blocks.0.ffn.2.bias", lambda tensor: tensor[1:]),
        r"blocks\.0\.ffn\.2\.bias in .* has shape \[255\], but this model needs \[256\]",
    ),
    "a name twice": (
        lambda tensors: tensors.update({"diffusion_model.head.head.bias": torch.zeros(1)}),
        r"has head\.head\.bias twice",
    ),
    "fp8 without a scale": (
        change("blocks.0.ffn.0.weight", lambda tensor: tensor.to(torch.float8_e4m3fn)),
        r"no scale for blocks\.0\.ffn\.0\.weight, which is stored as torch\.float8_e4m3fn",
    ),
    "text to video": (
        change("patch_embedding.weight", lambda tensor: tensor[:, :16]),
        r"16 input channels.*image-to-video one has 36",
    ),
    "no CLIP": (
        lambda tensors: [tensors.pop(name) for name in list(tensors) if "img" in name],
        r"no img_emb.*Wan 2\.2",
    ),
    "no patch embedding": (
        lambda tensors: tensors.pop("patch_embedding.weight"),
        r"patch_embedding\.weight is missing",
    ),
    "no blocks": (
        lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("blocks.")],
        r"blocks\.0\.ffn\.0\.weight is missing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_all_of_one_model_is_refused_in_a_sentence(tmp_path: Path, damage: str) -> None:
    apply, words = DAMAGES[damage]
    tensors = original_tensors(tiny_wan())
    apply(tensors)
    path = write(tmp_path / "wan.safetensors", tensors)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_single_file(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    shapes = {name: tuple(part.shape) for name, part in tiny_wan().state_dict().items()}
    shapes["patch_embedding.weight"] = (200, 36, 1, 2, 2)
    with pytest.raises(CheckpointError, match="200 wide"):
        wan_config(shapes, "wan.safetensors")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "wan.safetensors", original_tensors(tiny_wan()))
    path.write_bytes(path.read_bytes()[:100000])
    with pytest.raises(CheckpointError, match=r"wan\.safetensors cannot be read"):
        load_single_file(path)
    with pytest.raises(CheckpointError, match=r"missing\.safetensors cannot be read"):
        load_single_file(tmp_path / "missing.safetensors")


def test_names_are_wans() -> None:
    names = {published_name(name) for name in tiny_wan().state_dict()}
    assert {"blocks.0.cross_attn.norm_k_img.weight", "img_emb.proj.4.bias", "head.modulation"} <= names

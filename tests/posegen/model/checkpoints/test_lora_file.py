"""LoRA files in every spelling, on plain and quantised weights, beside the model's own adapters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from peft import LoraConfig

from posegen.model.checkpoints import (
    EMBEDDINGS,
    CheckpointError,
    export_lora,
    load_adapter,
    load_lora,
    load_single_file,
    save_adapter,
    set_adapter,
)
from posegen.model.scaled_linear import ScaledLinear
from posegen.model.transformer import PoseGenTransformer3DModel
from testkit.lora_files import (
    ALPHA,
    RANK,
    WITH_ALPHA,
    Tensors,
    comfyui_file,
    distillation_file,
    merged,
    random_differences,
    random_matrices,
    saved,
    with_differences,
)
from testkit.single_files import (
    linear_modules,
    original_tensors,
    output,
    quantised,
    relative_error,
    tiny_wan,
    write,
)

from_wan = PoseGenTransformer3DModel.from_wan
SAME = 1e-5  # sums in another order, float32


def fp8_transformer(folder: Path) -> Any:
    wan = tiny_wan()
    stored, scales = quantised(original_tensors(wan), linear_modules(wan), torch.float8_e4m3fn)
    said = {f"{module}.weight_scale": scale for module, scale in scales.items()}
    return load_single_file(write(folder / "wan.safetensors", stored | said))


def expanded(transformer: Any) -> Any:
    """The same model with its quantised linears as plain ones."""
    for name, module in list(transformer.named_modules()):
        if isinstance(module, ScaledLinear):
            plain = torch.nn.Linear(module.in_features, module.out_features)
            plain.weight.data, plain.bias.data = module.expanded(torch.float32), module.bias.data
            transformer.set_submodule(name, plain)
    return transformer


@pytest.mark.parametrize("spelling", WITH_ALPHA)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_every_spelling_means_the_same(tmp_path: Path, spelling: str, strength: float) -> None:
    matrices = random_matrices(tiny_wan())
    path = WITH_ALPHA[spelling](matrices, tmp_path / "lora")
    transformer = from_wan(tiny_wan())
    load_lora(transformer, path, "style", strength)
    expected = output(from_wan(merged(tiny_wan(), matrices, strength * ALPHA / RANK)))
    assert relative_error(output(transformer), expected) < SAME
    assert relative_error(output(from_wan(tiny_wan())), expected) > 0.01


@pytest.mark.parametrize("spelling", ["lora_down and lora_up", "musubi's file"])
def test_diffusers_takes_a_file_to_mean_the_same(tmp_path: Path, spelling: str) -> None:
    matrices = random_matrices(tiny_wan())
    within = {
        module: pair for module, pair in matrices.items() if module.startswith("blocks.")
    }  # as it asks for
    path = WITH_ALPHA[spelling](within, tmp_path)
    transformer = from_wan(tiny_wan())
    load_lora(transformer, path, "style")
    theirs = WanImageToVideoPipeline(None, None, None, None, transformer=from_wan(tiny_wan()))
    theirs.load_lora_weights(path.parent, weight_name=path.name)
    assert relative_error(output(transformer), output(theirs.transformer)) < SAME


def test_ranks_may_differ(tmp_path: Path) -> None:
    matrices = random_matrices(tiny_wan())
    for module in list(matrices)[::3]:
        down, up = matrices[module]
        matrices[module] = down[:3], up[:, :3].contiguous()
    transformer = from_wan(tiny_wan())
    load_lora(transformer, distillation_file(matrices, {}, tmp_path), "style")
    assert relative_error(output(transformer), output(from_wan(merged(tiny_wan(), matrices, 1.0)))) < SAME


def test_a_distillation_lora_without_alpha(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wan = tiny_wan()
    matrices, differences = random_matrices(wan), random_differences(wan)
    path = distillation_file(matrices, differences, tmp_path)
    transformer = from_wan(tiny_wan())
    with caplog.at_level(logging.WARNING):
        load_lora(transformer, path, "fast", 0.7)
    assert "left out diffusion_model.patch_embedding.diff" in caplog.text
    assert "diffusion_model.patch_embedding.diff_b" in caplog.text
    expected = output(from_wan(with_differences(merged(wan, matrices, 0.7), differences, 0.7)))
    assert relative_error(output(transformer), expected) < SAME


def test_quantised_weights_stay_quantised_beneath(tmp_path: Path) -> None:
    wan = tiny_wan()
    matrices, differences = random_matrices(wan), random_differences(wan)
    differences["blocks.0.ffn.2.diff"] = 0.05 * torch.randn(256, 512)
    path = distillation_file(matrices, differences, tmp_path)
    transformer = fp8_transformer(tmp_path)
    load_lora(transformer, path, "fast")

    plain = expanded(fp8_transformer(tmp_path))
    with_differences(merged(plain, matrices, 1.0), differences, 1.0)
    assert relative_error(output(transformer), output(plain)) < SAME
    kept = [name for name, module in transformer.named_modules() if isinstance(module, ScaledLinear)]
    assert len(kept) == len(linear_modules(wan)) - 1  # a whole difference is no longer of 8 bits


def test_files_add_up_beside_the_models_own_adapter(tmp_path: Path) -> None:
    torch.manual_seed(3)
    transformer = from_wan(tiny_wan())
    own = LoraConfig(r=2, target_modules=["to_q"], modules_to_save=[*EMBEDDINGS])
    for name in ("base", "cond"):
        transformer.add_adapter(own, name)
        for key, parameter in transformer.named_parameters():
            if f".{name}." in key:
                parameter.data += 0.05 * torch.randn_like(parameter)
    one, two = random_matrices(tiny_wan(), seed=1), random_matrices(tiny_wan(), seed=2)
    set_adapter(transformer, "base")
    load_lora(transformer, comfyui_file(one, tmp_path / "one"), "one", 0.5)
    load_lora(transformer, comfyui_file(two, tmp_path / "two"), "two", 0.25)
    assert transformer.active_adapters() == ["base", "one", "two"]

    for name in ("base", "cond"):
        set_adapter(transformer, [name, "one", "two"])
        found = output(transformer)
        wan = merged(merged(tiny_wan(), one, 0.5 * ALPHA / RANK), two, 0.25 * ALPHA / RANK)
        save_adapter(transformer, name, tmp_path / name)
        alone = from_wan(wan)
        load_adapter(alone, tmp_path / name, name)
        assert relative_error(found, output(alone)) < SAME


def test_our_own_exports_mean_the_same(tmp_path: Path) -> None:
    path = WITH_ALPHA["PEFT's folder"](random_matrices(tiny_wan()), tmp_path / "folder")
    transformer = from_wan(tiny_wan())
    load_lora(transformer, path, "style")
    for form in ("diffusers", "comfyui"):
        export_lora(path, tmp_path / f"{form}.safetensors", form)
        again = from_wan(tiny_wan())
        load_lora(again, tmp_path / f"{form}.safetensors", "style")
        assert relative_error(output(again), output(transformer)) < SAME


KEY = "diffusion_model.blocks.0.self_attn.q"


def put(key: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({key: torch.ones(shape)})


DAMAGES: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "another layer": (
        put("diffusion_model.blocks.9.self_attn.q.lora_A.weight", RANK, 256),
        r"has diffusion_model\.blocks\.9\.self_attn\.q\.lora_A\.weight, which fits nothing",
    ),
    "a text encoder": (
        put("lora_te_encoder_q.lora_down.weight", 1, 1),
        "lora_te_encoder_q.lora_down.weight, which fits",
    ),
    "DoRA": (put(f"{KEY}.dora_scale", 256), rf"{KEY}\.dora_scale, which fits nothing"),
    "LoKr": (put(f"{KEY}.lokr_w1", 2, 2), rf"{KEY}\.lokr_w1, which fits nothing"),
    "a bias that is not there": (
        put("diffusion_model.blocks.0.self_attn.norm_q.diff_b", 256),
        r"norm_q\.diff_b, which fits nothing",
    ),
    "no up matrix": (
        lambda tensors: tensors.pop(f"{KEY}.lora_B.weight"),
        r"no up matrix for blocks\.0\.self_attn\.q",
    ),
    "alpha alone": (
        lambda tensors: [tensors.pop(f"{KEY}.lora_{half}.weight") for half in "AB"],
        r"no down matrix for blocks\.0\.self_attn\.q",
    ),
    "two spellings": (
        put(f"{KEY}.lora_down.weight", RANK, 256),
        rf"{KEY}\.lora_\w+\.weight a second time",
    ),
    "another width": (
        put(f"{KEY}.lora_A.weight", RANK, 255),
        r"down matrix of blocks\.0\.self_attn\.q .*\[8, 255\].*\[8, 256\]",
    ),
    "another rank": (
        put(f"{KEY}.lora_B.weight", 256, 3),
        r"up matrix of blocks\.0\.self_attn\.q .*\[256, 3\].*\[256, 8\]",
    ),
    "an empty matrix": (
        put(f"{KEY}.lora_A.weight", 0, 256),
        r"down matrix of blocks\.0\.self_attn\.q .*\[0, 256\].*\[1, 256\]",
    ),
    "many alphas": (put(f"{KEY}.alpha", 2), r"alpha of blocks\.0\.self_attn\.q .*\[2\].*\[1\]"),
    "a difference of another shape": (
        put("diffusion_model.head.diff_m", 1, 2, 3),
        r"head\.diff_m .*\[1, 2, 3\].*\[1, 2, 256\]",
    ),
    "matrices of a norm": (
        put("diffusion_model.blocks.0.norm3.lora_A.weight", 1, 1),
        r"no up matrix for blocks\.0\.norm3",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_key_that_fits_nothing_is_named_and_nothing_is_changed(tmp_path: Path, damage: str) -> None:
    apply, words = DAMAGES[damage]
    names = (f"{KEY}.lora_A.weight", f"{KEY}.lora_B.weight", f"{KEY}.alpha")
    tensors = dict(zip(names, (torch.ones(RANK, 256), torch.ones(256, RANK), torch.ones(())), strict=True))
    tensors["diffusion_model.blocks.0.diff_m"] = torch.ones(1, 6, 256)
    apply(tensors)
    path = saved(tensors, tmp_path)
    transformer = from_wan(tiny_wan())
    with pytest.raises(CheckpointError, match=words) as caught:
        load_lora(transformer, path, "style")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not getattr(transformer, "peft_config", {})
    assert torch.equal(transformer.blocks[0].scale_shift_table, tiny_wan().blocks[0].scale_shift_table)


def test_a_header_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = saved({"transformer.x.lora_A.weight": torch.ones(1)}, tmp_path, {"lora_adapter_metadata": "["})
    with pytest.raises(CheckpointError, match="lora_adapter_metadata that cannot be read"):
        load_lora(from_wan(tiny_wan()), path, "style")

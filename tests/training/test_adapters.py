"""Adapters: back as they were, and the same output from PEFT's, diffusers' and ComfyUI's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from peft import LoraConfig, PeftModel, get_peft_model
from peft.functional import set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from posegen.model.checkpoints import (
    EMBEDDINGS,
    CheckpointError,
    export_lora,
    load_adapter,
    model_weights,
    published_adapter,
    published_name,
    read_adapter,
    save_adapter,
    set_adapter,
)
from posegen.model.transformer import PoseGenTransformer3DModel
from testkit.published_folders import RANK, drop, largest_difference, output, tiny_converted, transformer_of


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    return tiny_converted(tmp_path)


def new_adapter(transformer: PoseGenTransformer3DModel, name: str, **changes: Any) -> None:
    """Add an adapter as training does, and give it random tensors."""
    settings = {"r": RANK, "lora_alpha": RANK, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"]}
    transformer.add_adapter(LoraConfig(**(settings | {"modules_to_save": [*EMBEDDINGS]} | changes)), name)
    set_adapter(transformer, name, trainable=True)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora_alpha": 3},
        {"use_rslora": True},
        {"modules_to_save": None},
        {"target_modules": "all-linear"},
    ],
)
def test_an_adapter_comes_back_as_it_was(converted: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    transformer = transformer_of(converted)
    plain = output(transformer)
    new_adapter(transformer, "trained", **changes)
    expected = output(transformer)
    assert largest_difference(plain, expected) > 0.01
    save_adapter(transformer, "trained", tmp_path / "a")
    save_adapter(transformer, "trained", tmp_path / "b")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    again = transformer_of(converted)
    load_adapter(again, tmp_path / "a", "elsewhere")
    assert torch.equal(output(again), expected)
    assert all(
        torch.equal(part, model_weights(transformer)[name]) for name, part in model_weights(again).items()
    )

    wrapped = PeftModel.from_pretrained(transformer_of(converted), str(tmp_path / "a"))
    assert torch.equal(output(wrapped), expected)


def test_pefts_functions_load_a_written_adapter(converted: Path) -> None:
    folder = converted / "adapters" / "cond"
    wrapped = get_peft_model(transformer_of(converted), LoraConfig.from_pretrained(str(folder)), "mine")
    set_peft_model_state_dict(wrapped, load_file(folder / "adapter_model.safetensors"), "mine")
    assert torch.equal(output(wrapped), output(transformer_of(converted, "cond")))


def test_switching_adapters_switches_embeddings_and_gradients(converted: Path) -> None:
    transformer = transformer_of(converted, "base", "cond")
    assert not any(parameter.requires_grad for parameter in transformer.parameters())
    set_adapter(transformer, "base", trainable=True)
    trained = {name for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    adapter = published_adapter(converted.parent / "base")
    assert len(trained) == len(adapter.tensors) and all(".base." in name for name in trained)
    assert torch.equal(transformer.patch_embedding.weight, adapter.tensors["patch_embedding.weight"])
    set_adapter(transformer, "cond")
    other = published_adapter(converted.parent / "cond")
    assert torch.equal(
        transformer.get_submodule("hand_patch_embedding").bias, other.tensors["hand_patch_embedding.bias"]
    )
    with pytest.raises(CheckpointError, match=r"'third' \(base, cond\)"):
        set_adapter(transformer, "third")


def test_adapters_with_and_without_embeddings_are_switched(converted: Path, tmp_path: Path) -> None:
    transformer = transformer_of(converted)
    new_adapter(transformer, "plain", modules_to_save=None)
    save_adapter(transformer, "plain", tmp_path / "plain")
    expected = {"plain": output(transformer), "base": output(transformer_of(converted, "base"))}

    for first, second in (("plain", "base"), ("base", "plain")):
        folders = {"plain": tmp_path / "plain", "base": converted / "adapters" / "base"}
        both = transformer_of(converted)
        for name in (first, second):
            load_adapter(both, folders[name], name)
            assert torch.equal(output(both), expected[name])
        for name in (first, second):
            set_adapter(both, name)
            assert torch.equal(output(both), expected[name])


def test_an_adapter_takes_the_transformers_dtype(converted: Path) -> None:
    transformer = PoseGenTransformer3DModel.from_pretrained(
        converted / "transformer", torch_dtype=torch.bfloat16
    )
    load_adapter(transformer, converted / "adapters" / "base", "base")
    dtypes = {part.dtype for name, part in transformer.state_dict().items() if ".base." in name}
    assert dtypes == {torch.bfloat16}


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = {name: part.clone() for name, part in load_file(path).items()}
        change(tensors)
        save_file(tensors, path)

    return damage


def add(*names: str) -> Callable[[Path], None]:
    return change_tensors(lambda tensors: tensors.update({name: torch.ones(4, 4) for name in names}))


def change_config(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


ADAPTER_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (
        lambda folder: (folder / "adapter_config.json").unlink(),
        "has no adapter_config.json",
    ),
    "not JSON": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        "adapter_config.json is not a LoRA configuration",
    ),
    "another method": (change_config(peft_type="LOHA"), "adapter_config.json is not"),
    "an unknown method": (change_config(peft_type="NONE"), "adapter_config.json is not"),
    "no tensors": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "adapter_model.safetensors cannot be read",
    ),
    "truncated tensors": (
        lambda folder: (
            (folder / "adapter_model.safetensors").write_bytes(
                (folder / "adapter_model.safetensors").read_bytes()[:-9]
            )
            and None
        ),
        "adapter_model.safetensors cannot be read",
    ),
    "another rank": (change_config(r=8), r"adapter_model.safetensors has shape \[4, 24\].* \[8, 24\]"),
    "a matrix is missing": (
        change_tensors(drop("blocks.0.attn1.to_q.lora_B")),
        r"adapter_model.safetensors lacks blocks\.0\.attn1\.to_q\.lora_B\.weight",
    ),
    "a linear is missing": (
        change_tensors(drop("blocks.0.attn1.to_q.")),
        r"adapter_model.safetensors lacks blocks\.0\.attn1\.to_q\.lora_A\.weight",
    ),
    "an embedding is missing": (
        change_tensors(drop("model.reference_patch_embedding.weight")),
        r"lacks reference_patch_embedding\.weight",
    ),
    "a deeper model's": (
        add("blocks.9.attn1.to_q.lora_A.weight", "blocks.9.attn1.to_q.lora_B.weight"),
        r"has blocks\.9\.attn1\.to_q\.lora_A\.weight, which this model does not have",
    ),
    "DoRA": (
        add("blocks.0.attn1.to_q.lora_magnitude_vector"),
        r"has blocks\.0\.attn1\.to_q\.lora_magnitude_vector, which is neither",
    ),
    "another layer trained whole": (add("proj_out.weight"), r"has proj_out\.weight, which is neither"),
}


@pytest.mark.parametrize("damage", ADAPTER_DAMAGES)
def test_a_damaged_adapter_is_named_and_leaves_the_transformer_alone(converted: Path, damage: str) -> None:
    transformer = transformer_of(converted, "cond")
    before = output(transformer)
    apply, words = ADAPTER_DAMAGES[damage]
    apply(converted / "adapters" / "base")
    with pytest.raises(CheckpointError, match=words):
        load_adapter(transformer, converted / "adapters" / "base", "base")
    assert list(transformer.peft_config) == ["cond"]
    assert torch.equal(output(transformer), before)


def test_an_adapters_name_is_used_once(converted: Path) -> None:
    transformer = transformer_of(converted, "base")
    with pytest.raises(CheckpointError, match="'base' already"):
        load_adapter(transformer, converted / "adapters" / "cond", "base")


def trained_folder(converted: Path, tmp_path: Path, **changes: Any) -> tuple[Path, torch.Tensor]:
    """The folder of an adapter whose scale is not 1, and what the transformer makes with it."""
    transformer = transformer_of(converted)
    new_adapter(transformer, "trained", lora_alpha=3, **changes)
    save_adapter(transformer, "trained", tmp_path / "trained")
    return tmp_path / "trained", output(transformer)


def test_diffusers_loads_the_diffusers_export(converted: Path, tmp_path: Path) -> None:
    folder, expected = trained_folder(converted, tmp_path)
    export_lora(folder, tmp_path / "lora.safetensors", "diffusers")

    def with_embeddings() -> PoseGenTransformer3DModel:
        transformer = transformer_of(converted)
        embeddings = load_file(tmp_path / "lora_embeddings.safetensors")
        assert not transformer.load_state_dict(embeddings, strict=False).unexpected_keys
        return transformer

    alone = with_embeddings()
    alone.load_lora_adapter(str(tmp_path), weight_name="lora.safetensors", prefix="transformer")
    assert largest_difference(output(alone), expected) < 1e-5
    pipeline = WanImageToVideoPipeline(None, None, None, None, transformer=with_embeddings())
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    assert largest_difference(output(pipeline.transformer), expected) < 1e-5


def test_the_diffusers_export_says_its_strength_without_a_header(converted: Path, tmp_path: Path) -> None:
    folder, _ = trained_folder(converted, tmp_path)
    export_lora(folder, tmp_path / "lora.safetensors", "diffusers")
    with safe_open(tmp_path / "lora.safetensors", framework="pt") as file:
        assert "lora_adapter_metadata" not in (file.metadata() or {})
    tensors, adapter = load_file(tmp_path / "lora.safetensors"), read_adapter(folder)
    for module in adapter.modules:
        up, down = (tensors[f"transformer.{module}.lora_{half}.weight"] for half in "BA")
        a, b = adapter.tensors[f"{module}.lora_A.weight"], adapter.tensors[f"{module}.lora_B.weight"]
        assert largest_difference(up @ down, 3 / adapter.config.r * b @ a) < 1e-6


def test_comfyui_and_diffusers_load_the_comfyui_export(converted: Path, tmp_path: Path) -> None:
    folder, expected = trained_folder(converted, tmp_path)
    export_lora(folder, tmp_path / "comfy.safetensors", "comfyui", base=converted / "transformer")
    patches = load_file(tmp_path / "comfy.safetensors")

    transformer = transformer_of(converted)
    apply_like_comfyui(patches, transformer)
    assert largest_difference(output(transformer), expected) < 1e-5

    pipeline = WanImageToVideoPipeline(None, None, None, None, transformer=transformer_of(converted))
    embeddings = read_adapter(folder).embeddings
    pipeline.transformer.load_state_dict(embeddings, strict=False)
    pipeline.load_lora_weights(tmp_path, weight_name="comfy.safetensors")
    assert largest_difference(output(pipeline.transformer), expected) < 1e-5


def apply_like_comfyui(patches: dict[str, torch.Tensor], transformer: PoseGenTransformer3DModel) -> None:
    """What ComfyUI's load_lora and calculate_weight do with a file: up @ down, .diff and .diff_b are added."""
    taken = set()
    for name, weight in transformer.state_dict().items():
        key, _, kind = f"diffusion_model.{published_name(name)}".rpartition(".")
        if kind == "weight" and f"{key}.lora_B.weight" in patches:
            weight += patches[f"{key}.lora_B.weight"] @ patches[f"{key}.lora_A.weight"]
            taken |= {f"{key}.lora_B.weight", f"{key}.lora_A.weight"}
        difference = f"{key}.diff" if kind == "weight" else f"{key}.diff_b"
        if difference in patches:
            weight += patches[difference]
            taken.add(difference)
    assert taken == patches.keys()


def test_comfyui_gets_whole_what_plain_wan_does_not_have(converted: Path, tmp_path: Path) -> None:
    wan = WanTransformer3DModel.from_config(PoseGenTransformer3DModel.load_config(converted / "transformer"))
    wan.save_pretrained(tmp_path / "wan")
    folder = converted / "adapters" / "base"
    export_lora(folder, tmp_path / "comfy.safetensors", "comfyui", base=tmp_path / "wan")
    patches, own = load_file(tmp_path / "comfy.safetensors"), read_adapter(folder).embeddings
    assert torch.equal(
        patches["diffusion_model.ref_patch_embedding.diff"], own["reference_patch_embedding.weight"]
    )
    difference = patches["diffusion_model.patch_embedding.diff_b"]
    assert largest_difference(wan.patch_embedding.bias + difference, own["patch_embedding.bias"]) < 1e-6


@pytest.mark.parametrize(
    ("name", "form", "base", "words"),
    [
        ("lora.bin", "diffusers", None, "does not end in .safetensors"),
        ("lora.safetensors", "kohya", None, "no LoRA format 'kohya'"),
        ("lora.safetensors", "comfyui", None, "as base"),
        ("lora.safetensors", "comfyui", "adapters", r"lacks patch_embedding\.bias"),
    ],
)
def test_an_export_that_cannot_be_made_says_why(
    converted: Path, tmp_path: Path, name: str, form: Any, base: str | None, words: str
) -> None:
    place = None if base is None else converted / base
    with pytest.raises(CheckpointError, match=words):
        export_lora(converted / "adapters" / "base", tmp_path / name, form, place)

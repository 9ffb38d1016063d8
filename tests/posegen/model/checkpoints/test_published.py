"""Published folders: every tensor is taken and given back, damage is named, memory stays that of one model."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from posegen.model.checkpoints import (
    CheckpointError,
    attach_adapter,
    convert_published,
    diffusers_name,
    load_published,
    model_config,
    model_weights,
    published_name,
    published_tensors,
    read_published,
    save_published,
    set_adapter,
    transformer_config,
)
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.pipeline import PoseGenPipeline
from testkit.published_folders import (
    FULL_SIZE,
    RANK,
    TINY,
    drop,
    largest_difference,
    output,
    published_shapes,
    random_tensors,
    tiny_converted,
    tiny_published,
    transformer_of,
    write_folder,
)
from testkit.tiny_model import (
    HEAD,
    SEGMENT_FRAMES,
    SIZE,
    TAIL,
    picture,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_vae,
    walking,
)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return tiny_published(tmp_path / "published")


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    return tiny_converted(tmp_path)


# --- Names and settings


def test_names_are_those_of_diffusers_own_conversion() -> None:
    names = [name.removeprefix("pipe.dit.") for name in published_shapes(TINY)]
    own = {"ref_patch_embedding": "reference_patch_embedding"}  # which diffusers does not know
    for name in names:
        (theirs,) = convert_wan_transformer_to_diffusers({name: torch.empty(0)})
        for ours in own:
            theirs = theirs.replace(ours, own[ours])
        assert diffusers_name(name) == theirs


@pytest.mark.parametrize(
    "changes", [{}, {"use_hand": False, "use_hand_proj": False}, {"has_image_input": False}]
)
def test_settings_and_names_go_both_ways(changes: dict[str, Any]) -> None:
    settings = TINY | changes
    with torch.device("meta"):
        transformer = PoseGenTransformer3DModel(**transformer_config(settings))
    assert model_config(transformer.config) == settings
    names = [name.removeprefix("pipe.dit.") for name in published_shapes(settings, RANK)]
    assert [published_name(diffusers_name(name)) for name in names] == names
    assert len({diffusers_name(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"has_image_pos_emb": True}, "has_image_pos_emb"),
        ({"num_layers": None}, "None for num_layers"),
        ({"dim": "5120"}, "'5120' for dim"),
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": 7}, "num_heads"),
        ({"use_depth": True}, "use_depth"),
    ],
)
def test_settings_that_cannot_be_met_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        transformer_config(TINY | changes)


@pytest.mark.parametrize(
    "changes",
    [{"prediction": "sample"}, {"reference_channels": 8}, {"image_dim": 64}, {"qk_norm": "rms_norm"}],
)
def test_arguments_that_the_published_format_cannot_say_are_named(changes: dict[str, Any]) -> None:
    config = dict(PoseGenTransformer3DModel(**transformer_config(TINY)).config) | changes
    (name,) = changes
    with pytest.raises(CheckpointError, match=name):
        model_config(config)


# --- Published folders


def test_the_14b_checkpoint_is_taken_whole_and_given_back(tmp_path: Path) -> None:
    shapes = published_shapes(FULL_SIZE, rank=128)
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    folder = write_folder(tmp_path / "full", FULL_SIZE, tensors)

    published = read_published(folder)
    with torch.device("meta"):
        own = PoseGenTransformer3DModel(**transformer_config(FULL_SIZE)).state_dict()
    assert {name: part.shape for name, part in published.weights.items()} == {
        name: part.shape for name, part in own.items()
    }
    assert published.adapter is not None
    lora = [name for name in shapes if "lora_" in name]
    assert len(published.adapter.lora) == len(lora) == 40 * 2 * 10

    transformer = published.transformer
    attach_adapter(transformer, published.adapter, "base")
    assert {
        name: tuple(part.shape) for name, part in published_tensors(transformer, "base").items()
    } == shapes
    merged = published_tensors(load_published(folder))
    assert {name: tuple(part.shape) for name, part in merged.items()} == published_shapes(FULL_SIZE)


def test_merging_adds_b_times_a_and_leaves_the_files_alone(published: Path) -> None:
    tensors = random_tensors(published_shapes(TINY, RANK))
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in published.glob("*")}
    weights = load_published(published).state_dict()
    assert before == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in published.glob("*")}

    for name, tensor in tensors.items():
        name = name.removeprefix("pipe.dit.")
        if ".base_layer.weight" in name:
            module = name.removesuffix(".base_layer.weight")
            down, up = (tensors[f"pipe.dit.{module}.lora_{half}.default.weight"] for half in "AB")
            expected = tensor + up @ down
            assert torch.equal(weights[diffusers_name(f"{module}.weight")], expected)
        elif "lora_" not in name:
            assert torch.equal(weights[diffusers_name(name.replace(".base_layer", ""))], tensor)


def test_a_bf16_folder_loads_like_diffusers_loads_it(tmp_path: Path) -> None:
    tensors = {name: part.bfloat16() for name, part in random_tensors(published_shapes(TINY)).items()}
    transformer = load_published(write_folder(tmp_path / "bf16", TINY, tensors))
    transformer.save_pretrained(tmp_path / "saved")
    again = PoseGenTransformer3DModel.from_pretrained(tmp_path / "saved", torch_dtype=torch.bfloat16)
    for name, tensor in again.state_dict().items():
        loaded = transformer.state_dict()[name]
        assert loaded.dtype == tensor.dtype and torch.equal(loaded, tensor), name
    assert not transformer.training


def test_two_folders_become_one_model_with_two_adapters(converted: Path) -> None:
    transformer = transformer_of(converted, "base", "cond")
    outputs = {}
    for name in ("base", "cond", "base"):
        set_adapter(transformer, name)
        outputs[name] = output(transformer)
        merged = output(load_published(converted.parent / name))
        assert largest_difference(outputs[name], merged) < 1e-5
    assert largest_difference(outputs["base"], outputs["cond"]) > 0.01


def test_conversion_takes_wans_other_parts_and_its_patch_embedding(converted: Path, tmp_path: Path) -> None:
    wan = WanTransformer3DModel.from_config(PoseGenTransformer3DModel.load_config(converted / "transformer"))
    wan.save_pretrained(tmp_path / "wan" / "transformer")
    (tmp_path / "wan" / "model_index.json").write_text(
        '{"_class_name": "WanImageToVideoPipeline", "vae": ["a", "b"]}'
    )
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(tmp_path / "wan" / "scheduler")
    (tmp_path / "wan" / "vae").mkdir()
    (tmp_path / "wan" / "vae" / "config.json").write_text("{}")
    base, cond, complete = (tmp_path / name for name in ("base", "cond", "complete"))
    convert_published(base, cond, tmp_path / "wan", complete)
    assert (complete / "vae" / "config.json").read_text() == "{}"
    index = json.loads((complete / "model_index.json").read_text(encoding="utf-8"))
    assert index.pop("negative_prompt").startswith("色调艳丽")
    assert index == {
        "_class_name": "PoseGenPipeline",
        "guidance_scale": 5.0,
        "num_inference_steps": 25,
        "timestep_dtype": "bfloat16",
        "transformer": ["posegen.model.transformer", "PoseGenTransformer3DModel"],
        "vae": ["a", "b"],
    }
    assert (
        FlowMatchEulerDiscreteScheduler.from_pretrained(complete, subfolder="scheduler").config.shift == 5.0
    )

    transformer = transformer_of(complete, "base")
    assert torch.equal(model_weights(transformer)["patch_embedding.weight"], wan.patch_embedding.weight)
    assert largest_difference(output(transformer), output(load_published(base))) < 1e-5


def test_a_converted_pipeline_makes_videos(tmp_path: Path) -> None:
    transformer = transformer_of(tiny_converted(tmp_path, TINY | {"has_image_input": False}), "base", "cond")
    tokenizer = tiny_tokenizer()
    pipeline = PoseGenPipeline(
        transformer,
        tiny_vae(),
        tiny_text_encoder(tokenizer),
        tokenizer,
        FlowMatchEulerDiscreteScheduler(shift=5.0),
        segment_frames=SEGMENT_FRAMES,
        head=HEAD,
        tail=TAIL,
        size=SIZE,
        num_inference_steps=1,
    )
    pipeline.save_pretrained(tmp_path / "pipeline")
    base, cond, complete = (tmp_path / name for name in ("base", "cond", "complete"))
    convert_published(base, cond, tmp_path / "pipeline", complete)
    arguments = picture(), walking(29), "the woman dances"
    frames = pipeline(*arguments).frames
    made = PoseGenPipeline.from_pretrained(complete)
    assert made.model_id() != pipeline.model_id()
    made.register_to_config(**{name: pipeline.config[name] for name in ("negative_prompt", "timestep_dtype")})
    assert np.array_equal(made(*arguments, num_inference_steps=1).frames, frames)


def test_conversion_refuses_another_wan(converted: Path, tmp_path: Path) -> None:
    config = WanTransformer3DModel.load_config(converted / "transformer") | {"in_channels": 16}
    WanTransformer3DModel.from_config(config).save_pretrained(tmp_path / "wan" / "transformer")
    with pytest.raises(CheckpointError, match=r"patch_embedding\.weight in .*wan.* \[24, 16, 1, 2, 2\]"):
        convert_published(tmp_path / "base", tmp_path / "cond", tmp_path / "wan", tmp_path / "complete")


def test_folders_of_two_models_are_not_made_one(published: Path, tmp_path: Path) -> None:
    tensors = random_tensors(published_shapes(TINY, RANK))
    tensors["pipe.dit.blocks.1.norm3.bias"] += 1
    write_folder(tmp_path / "cond", TINY, tensors)
    with pytest.raises(CheckpointError, match=r"blocks\.1\.norm3\.bias .*not adapters of one model"):
        convert_published(published, tmp_path / "cond", None, tmp_path / "out")


@pytest.mark.parametrize("adapter", ["base", "cond"])
def test_saving_gives_the_published_folder_back(converted: Path, tmp_path: Path, adapter: str) -> None:
    save_published(transformer_of(converted, "base", "cond"), tmp_path / "again", adapter)
    assert json.loads((tmp_path / "again" / "model_config.json").read_text()) == TINY
    (shard,) = (tmp_path / "again").glob("*.bin")
    saved = torch.load(shard, weights_only=True)
    original: dict[str, torch.Tensor] = {}
    for path in (converted.parent / adapter).glob("*.bin"):
        original |= torch.load(path, weights_only=True)
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], original[name]) for name in original)


def test_saved_shards_hold_no_more_than_their_tensors(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = transformer_of(converted)  # its tensors look into one memory-mapped file
    monkeypatch.setattr("posegen.model.checkpoints.published.SHARD_BYTES", 1 << 20)
    save_published(transformer, tmp_path / "again")
    shards = sorted((tmp_path / "again").glob("*.bin"))
    size = sum(part.nbytes for part in transformer.state_dict().values())
    assert len(shards) > 2 and shards[0].name == f"pytorch_model-00001-of-{len(shards):05}.bin"
    assert sum(shard.stat().st_size for shard in shards) < 1.1 * size
    again = load_published(tmp_path / "again").state_dict()
    assert all(torch.equal(again[name], part) for name, part in transformer.state_dict().items())
    with pytest.raises(CheckpointError, match="empty folder"):
        save_published(transformer, tmp_path / "again")


def change_shards(change: Callable[[dict[str, Any]], object], count: int = 2) -> Callable[[Path], None]:
    """Damage a folder by changing what its first shards hold."""

    def damage(folder: Path) -> None:
        for path in sorted(folder.glob("*.bin"))[:count]:
            tensors = torch.load(path, weights_only=True)
            change(tensors)
            torch.save(tensors, path)

    return damage


def add(key: str, *shape: int) -> Callable[[Path], None]:
    return change_shards(lambda tensors: tensors.update({key: torch.ones(shape)}), count=1)


def first(folder: Path) -> Path:
    return min(folder.glob("*.bin"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no settings": (
        lambda folder: (folder / "model_config.json").rename(folder / "x.json"),
        r"config\.json cannot be read",
    ),
    "settings are a list": (
        lambda folder: (folder / "model_config.json").write_text("[1]"),
        r"config\.json cannot be read",
    ),
    "no shards": (
        lambda folder: [path.rename(path.with_suffix(".x")) for path in folder.glob("*.bin")],
        r"no \.bin files",
    ),
    "one shard missing": (
        lambda folder: first(folder).rename(folder / "x"),
        r"lacks pipe\.dit\..* missing: \d+",
    ),
    "a truncated shard": (
        lambda folder: first(folder).write_bytes(first(folder).read_bytes()[:5000]),
        r"00001-of-00002\.bin cannot be read .*fetch it again",
    ),
    "an empty shard": (
        lambda folder: first(folder).write_bytes(b""),
        r"00001-of-00002\.bin cannot be read",
    ),
    "a shard with code": (
        lambda folder: torch.save({"pipe.dit.head.modulation": Path("x")}, first(folder)),
        r"00001-of-00002\.bin cannot be read",
    ),
    "not tensors": (change_shards(lambda tensors: tensors.update(step=3)), "not a plain dictionary"),
    "an unknown name": (
        add("pipe.dit.blocks.0.gate", 1),
        r"00001-of-00002\.bin: blocks\.0\.gate is not the name",
    ),
    "a deeper model's name": (
        add("pipe.dit.blocks.7.modulation", 1),
        r"00001-of-00002\.bin has pipe\.dit\.blocks\.7\.modulation, which this model does not have",
    ),
    "another shape": (
        add("pipe.dit.head.modulation", 1, 2, 5),
        r"pipe\.dit\.head\.modulation .*\[1, 2, 5\], but this model needs \[1, 2, 24\]",
    ),
    "a name twice": (lambda folder: shutil.copy(first(folder), folder / "copy.bin"), r"repeats pipe\.dit"),
    "a matrix missing": (
        change_shards(drop("blocks.0.ffn.0.lora_A")),
        r"lacks pipe\.dit\.blocks\.0\.ffn\.0\.lora_A\.default\.weight",
    ),
    "both matrices missing": (
        change_shards(drop("blocks.0.ffn.0.lora_")),
        r"lacks pipe\.dit\.blocks\.0\.ffn\.0\.lora_A\.default\.weight",
    ),
    "another rank": (
        add("pipe.dit.blocks.0.ffn.0.lora_B.default.weight", 40, 5),
        r"blocks\.0\.ffn\.0\.lora_B\.default\.weight .*\[40, 5\].*\[40, 4\]",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_named_in_one_sentence(published: Path, damage: str) -> None:
    apply, words = DAMAGES[damage]
    apply(published)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_published(published)
    assert "\n" not in str(caught.value) and str(published) in str(caught.value)


def test_flipped_bytes_raise_nothing_else(published: Path) -> None:
    path = first(published)
    whole = path.read_bytes()
    chance = random.Random(0)
    refused = 0
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[chance.choice([chance.randrange(3000), -chance.randrange(1, 9000)])] ^= 255
        path.write_bytes(damaged)
        try:
            load_published(published)
        except CheckpointError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 20

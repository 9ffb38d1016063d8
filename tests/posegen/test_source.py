"""A model is a folder, a single file in its transformer's place, and LoRA files on top."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig

from posegen.model.checkpoints import CheckpointError
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.pipeline import ADAPTERS
from posegen.source import ModelSource
from testkit.lora_files import comfyui_file, distillation_file, random_differences, random_matrices
from testkit.single_files import original_tensors, tiny_wan, write
from testkit.tiny_model import add_random_adapter, picture, tiny_pipeline, walking

FRAMES = 30  # two base segments and a bridge


@pytest.fixture(scope="module")
def wan() -> WanTransformer3DModel:
    return tiny_wan(text_dim=16, image_dim=16)


@pytest.fixture(scope="module")
def folder(wan: WanTransformer3DModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PoseGen folder on a plain Wan transformer, with both adapters."""
    folder = tmp_path_factory.mktemp("source") / "model"
    transformer = PoseGenTransformer3DModel.from_wan(wan)
    for name in ADAPTERS:
        add_random_adapter(transformer, name)
    pipeline = tiny_pipeline()
    pipeline.register_modules(transformer=transformer.eval())
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lora(wan: WanTransformer3DModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return comfyui_file(random_matrices(wan), tmp_path_factory.mktemp("lora"))


def frames(source: ModelSource) -> np.ndarray:
    """A video without guidance and sharing, so that base segments and bridges are apart."""
    pipeline = source.load(torch.float32)
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "framing": "off"}
    return pipeline(picture(), walking(FRAMES), "a woman dances", **options).frames  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plain(folder: Path) -> np.ndarray:
    return frames(ModelSource(folder))


def test_a_single_file_stands_in_for_the_folders_transformer(
    wan: WanTransformer3DModel, folder: Path, plain: np.ndarray, tmp_path: Path
) -> None:
    file = write(tmp_path / "wan.safetensors", original_tensors(wan), "model.diffusion_model.")
    assert np.array_equal(frames(ModelSource(folder, file)), plain)


def test_a_lora_acts_in_base_segments_and_bridges(folder: Path, plain: np.ndarray, lora: Path) -> None:
    changed = frames(ModelSource(folder, loras=((lora, 1.0),))) != plain
    # Segments 0 and 2 are base segments, frames 8..12 and 17..20 overlap, so 13..16 are the bridge's own.
    assert changed[0:8].any() and changed[13:17].any() and changed[21:].any()


def test_of_no_strength_a_lora_changes_nothing(folder: Path, plain: np.ndarray, lora: Path) -> None:
    assert np.array_equal(frames(ModelSource(folder, loras=((lora, 0.0),))), plain)


def test_a_lora_asked_for_by_name_acts_in_that_job_alone(folder: Path, plain: np.ndarray, lora: Path) -> None:
    pipeline = ModelSource(folder, by_name=(("ink", lora),)).load(torch.float32)

    def video(**loras: float) -> np.ndarray:
        options = {"num_inference_steps": 1, "guidance_scale": 1.0, "framing": "off", "loras": loras}
        return pipeline(picture(), walking(FRAMES), "a woman dances", **options).frames  # type: ignore[arg-type]

    assert np.array_equal(video(), plain)
    assert np.array_equal(video(ink=0.5), frames(ModelSource(folder, loras=((lora, 0.5),))))
    assert not np.array_equal(video(ink=1.0), video(ink=0.5))
    assert np.array_equal(video(), plain), "the job before it does not matter"
    with pytest.raises(ValueError, match=r"There is no LoRA 'oil'; this pipeline was loaded with \['ink'\]"):
        video(oil=1.0)


def test_a_lora_that_cannot_be_taken_out_again_is_not_taken_by_name(
    folder: Path, wan: WanTransformer3DModel, tmp_path: Path
) -> None:
    file = distillation_file(random_matrices(wan), random_differences(wan), tmp_path)
    with pytest.raises(CheckpointError, match=r"lora\.safetensors changes whole tensors, so it cannot"):
        ModelSource(folder, by_name=(("fast", file),)).load(torch.float32)


def test_an_adapter_of_the_users_own_stays_on(folder: Path) -> None:
    pipeline = ModelSource(folder).load(torch.float32)
    options = {"num_inference_steps": 1, "guidance_scale": 1.0}
    before = pipeline(picture(), walking(5), **options).frames  # type: ignore[arg-type]
    config = LoraConfig(r=2, target_modules=["ffn.net.2"], init_lora_weights=False)
    pipeline.transformer.add_adapter(config, "style")
    pipeline.transformer.set_adapters(["base", "style"])
    after = pipeline(picture(), walking(5), **options).frames  # type: ignore[arg-type]
    assert pipeline.transformer.active_adapters() == ["base", "style"]
    assert not np.array_equal(before, after)


def test_a_file_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    other = comfyui_file(random_matrices(tiny_wan(heads=1, text_dim=16, image_dim=16)), tmp_path)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        ModelSource(folder, loras=((other, 1.0),)).load(torch.float32)

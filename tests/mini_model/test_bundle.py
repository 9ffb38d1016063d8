"""The mini model put together from its parts, at a tiny size."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from mini_model.bundle import BundleConfig, bundle
from mini_model.clips import FIRST_VALIDATION_SEED
from posegen.model.checkpoints import EMBEDDINGS, CheckpointError, save_adapter
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.pipeline import ADAPTERS, PoseGenPipeline
from testkit.tiny_training import FRAMES, SIZE, write_tiny_model

STEPS = 2


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> BundleConfig:
    """A base model with its logs, and two adapters of random values with theirs."""
    folder = tmp_path_factory.mktemp("mini")
    write_tiny_model(folder / "base")
    (folder / "clips").mkdir()
    for first in (0, 100, FIRST_VALIDATION_SEED):
        (folder / "clips" / f"{first:07d}.npz").touch()
    adapters = [write_adapter(folder, name) for name in ADAPTERS]
    for log in ("base.jsonl", "base/base_adapter.jsonl", "cond/cond_adapter.jsonl"):
        rows = [{"step": step, "loss": 1 / step, "validation_0.3": 0.5} for step in (250, 1000)]
        (folder / log).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mini.sh").write_text("python mini_model/pretrain.py base\n")
    return BundleConfig(
        adapters=(adapters[0], adapters[1]),
        runs=tuple(folder / name for name in ADAPTERS),
        base=folder / "base",
        output=folder / "model",
        commands=folder / "mini.sh",
        size=SIZE,
        num_inference_steps=STEPS,
        device="a toaster",
    )


@pytest.fixture(scope="module")
def size(config: BundleConfig) -> int:
    """Of the folder, once it is written."""
    return bundle(config)


def write_adapter(folder: Path, name: str) -> Path:
    """A training's output folder, as `training/train.py` leaves it; returns the adapter's."""
    torch.manual_seed(ADAPTERS.index(name))
    transformer = PoseGenTransformer3DModel.from_pretrained(folder / "base", subfolder="transformer")
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], modules_to_save=[*EMBEDDINGS]), name)
    for parameter_name, parameter in transformer.named_parameters():
        if f".{name}." in parameter_name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    output = folder / name
    save_adapter(transformer, name, output / "adapters" / name)
    rows = [
        {"step": 10, "loss": 2.0, "seconds/step": 3.0},
        {"step": 20, "loss": 1.0, "seconds/step": 9.0},
        {"step": 20, "validation/0.2": 0.7},
    ]
    (output / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return output / "adapters" / name


def test_the_folder_is_a_pipeline_and_makes_a_video(config: BundleConfig, size: int) -> None:
    files = [path for path in config.output.rglob("*") if path.is_file() and path.name != "README.md"]
    assert size == sum(path.stat().st_size for path in files)
    assert {path.suffix for path in files} <= {".json", ".safetensors"}
    loaded = PoseGenPipeline.from_pretrained(config.output)
    assert loaded.config.segment_frames == config.segment_frames and tuple(loaded.config.size) == SIZE
    assert {*loaded.transformer.peft_config} == {*ADAPTERS}
    assert {parameter.dtype for parameter in loaded.transformer.parameters()} == {torch.float32}
    picture = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    poses = np.zeros((FRAMES, 133, 3), np.float32)
    assert loaded(picture, poses, framing="off").frames.shape == (FRAMES, SIZE[1], SIZE[0], 3)


def test_half_precision_is_the_storage_alone(config: BundleConfig, size: int) -> None:
    stored = load_file(config.output / "adapters" / "base" / "adapter_model.safetensors")
    whole = load_file(config.adapters[0] / "adapter_model.safetensors")
    assert stored.keys() == whole.keys()
    for name, tensor in stored.items():
        assert tensor.dtype == torch.float16
        torch.testing.assert_close(tensor.float(), whole[name], rtol=1e-3, atol=1e-6)


def test_the_card_tells_what_the_logs_do(config: BundleConfig, size: int) -> None:
    card = (config.output / "README.md").read_text()
    assert "200 drawn clips, seeds 0 to 199" in card
    assert "| pretrain.py base | 1,000 | not logged | 0.001 | validation_0.3 0.5 |" in card
    assert "| pretrain.py cond_adapter | 1,000 | not logged | 0.001 | validation_0.3 0.5 |" in card
    assert "| train.py cond | 20 | 2 | 1 | validation/0.2 0.7 |" in card
    assert "python mini_model/pretrain.py base" in card and "a toaster" in card


def test_an_adapter_without_its_tensors_is_refused(config: BundleConfig, tmp_path: Path) -> None:
    shutil.copy(config.adapters[0] / "adapter_config.json", tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        bundle(replace(config, adapters=(tmp_path, config.adapters[1]), output=tmp_path / "model"))


def test_what_is_too_large_for_the_package_is_refused(
    config: BundleConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mini_model.bundle.MOST_BYTES", 100_000)
    with pytest.raises(ValueError, match="are bundled"):
        bundle(replace(config, output=tmp_path))

"""Two published folders, one per adapter, made one model with two adapters in diffusers' layout.

Nothing is taken on trust. All frozen tensors of both folders are compared, by hashes of one shard after the other, as
both folders at once would be two models in memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from posegen.model.checkpoints.export import read_embeddings
from posegen.model.checkpoints.lora import is_embedding, write_adapter
from posegen.model.checkpoints.names import CheckpointError, Tensors, check_shape
from posegen.model.checkpoints.published import (
    SHARD_BYTES,
    fill,
    load_shard,
    plain_name,
    published_adapter,
    read_json,
    read_published,
    shards_of,
)
from posegen.model.checkpoints.single_file.loading import load_single_file
from posegen.model.transformer import PoseGenTransformer3DModel

PUBLISHED_SETTINGS = Path(__file__).with_name("published.json")
"""How the authors' released inference uses the published weights; the negative prompt is Wan's own."""
PUBLISHED_SHIFT = 5.0
"""Of its schedule, whatever the Wan folder's scheduler is set to."""


def convert_published(
    base_folder: str | Path, cond_folder: str | Path, wan_folder: str | Path | None, output: str | Path
) -> None:
    """Write one transformer and two adapters, `transformer/` and `adapters/{base,cond}`, from two published folders.

    The frozen weights are those of the base folder; that the other folder holds the same ones is checked.
    wan_folder: a diffusers folder of Wan2.1 I2V. Its other parts (VAE, encoders, scheduler) are copied, so that
    `output` is a whole pipeline, and its video patch embedding becomes that of `transformer/`, so that adapters can be
    exported as differences to plain Wan.
    Raises CheckpointError like `load_published`, and where the two folders are not of one model.
    """
    output = Path(output)
    _check_same_model(Path(base_folder), Path(cond_folder))
    for name, folder in {"base": base_folder, "cond": cond_folder}.items():
        write_adapter(published_adapter(folder), output / "adapters" / name)
    base = read_published(base_folder)
    if wan_folder is not None:
        _take_patch_embedding(Path(wan_folder) / "transformer", base.weights)
        _copy_other_parts(Path(wan_folder), output, read_json(PUBLISHED_SETTINGS))
        _set_shift(output, PUBLISHED_SHIFT)
    fill(base.transformer, base.weights).save_pretrained(output / "transformer", max_shard_size=SHARD_BYTES)


def convert_single_file(file: str | Path, wan_folder: str | Path, output: str | Path) -> None:
    """Write a pipeline's folder, to train adapters on, of a single file's transformer and a Wan folder's other parts.

    Raises CheckpointError like `load_single_file`, ValueError where the file is quantised.
    """
    output = Path(output)
    load_single_file(file).save_pretrained(output / "transformer", max_shard_size=SHARD_BYTES)
    _copy_other_parts(Path(wan_folder), output, {})


def _take_patch_embedding(wan: Path, weights: Tensors) -> None:
    embeddings = read_embeddings(wan)
    for name in ("patch_embedding.weight", "patch_embedding.bias"):
        check_shape(name, embeddings[name].shape, weights[name].shape, wan)
        weights[name] = embeddings[name].to(weights[name].dtype)


def _copy_other_parts(wan: Path, output: Path, settings: dict[str, Any]) -> None:
    """Copy a Wan pipeline without its transformer, and say that this is a pipeline of PoseGen with these settings."""
    for part in sorted(wan.iterdir()):
        if part.is_dir() and part.name not in ("transformer", "adapters"):
            shutil.copytree(part, output / part.name, dirs_exist_ok=True)
    index = read_json(wan / "model_index.json")
    index["_class_name"] = "PoseGenPipeline"
    index |= settings
    index["transformer"] = [PoseGenTransformer3DModel.__module__, PoseGenTransformer3DModel.__name__]
    (output / "model_index.json").write_text(
        json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _set_shift(output: Path, shift: float) -> None:
    scheduler = output / "scheduler" / "scheduler_config.json"
    config = read_json(scheduler)
    name = "flow_shift" if "flow_shift" in config else "shift"
    scheduler.write_text(json.dumps(config | {name: shift}, indent=2) + "\n")


def _check_same_model(base: Path, cond: Path) -> None:
    """Raise CheckpointError unless all but the adapters is the same in both folders."""
    digests = _digests(base)
    others = _digests(cond)
    for key in sorted(digests.keys() | others.keys()):
        if digests.get(key) != others.get(key):
            raise CheckpointError(
                f"{key} of {cond} is not that of {base}, so they are not adapters of one model: convert folders of "
                "one release."
            )


def _digests(folder: Path) -> dict[str, bytes]:
    """A hash of each frozen tensor in a folder."""
    return {
        key: hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().data).digest()
        for path in shards_of(folder)
        for key, tensor in load_shard(path).items()
        if not (".lora_" in key or is_embedding(plain_name(key, path)))
    }

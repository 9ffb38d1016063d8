"""The published PoseGen folders, in and out: `model_config.json` and `*.bin` shards, one folder per adapter.

A model is built without memory of its own and takes the shards' memory-mapped tensors as they are, so one copy of it is
in memory at most. LoRA is merged in place: the mapping is private, so a merged page becomes the process's own and the
file stays untouched. Shards are unpickled with `weights_only`.
"""

from __future__ import annotations

import json
import mmap
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig

from posegen.model.checkpoints.lora import (
    EMBEDDINGS,
    Adapter,
    adapter_of,
    is_embedding,
    model_weights,
)
from posegen.model.checkpoints.names import (
    CheckpointError,
    Tensors,
    check_complete,
    check_shape,
    diffusers_name,
    model_config,
    published_name,
    stays_float32,
    transformer_config,
)
from posegen.model.transformer import PoseGenTransformer3DModel

PREFIX = "pipe.dit."
CONFIG_FILE = "model_config.json"
SHARD_BYTES = 5 << 30
UNREADABLE = (  # what reading a damaged shard raises, or one that holds code
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
)


@dataclass(frozen=True)
class Published:
    """What a published folder holds, by diffusers names and memory-mapped.

    transformer: the model on the meta device. weights: its tensors without the LoRA matrices. adapter: those, and the
    patch embeddings of `weights`; None where no linear is adapted.
    """

    transformer: PoseGenTransformer3DModel
    weights: Tensors
    adapter: Adapter | None


def load_published(folder: str | Path) -> PoseGenTransformer3DModel:
    """The transformer of a published folder with its LoRA merged in (`B @ A` is added), in the stored dtype.

    As in diffusers' `from_pretrained`, the few tensors that need it are kept in float32.
    Raises CheckpointError where a file is damaged or a tensor is missing, unknown or of a wrong shape.
    """
    published = read_published(folder)
    if (adapter := published.adapter) is not None:
        for module in adapter.modules:
            down, up = adapter.matrices(module)
            published.weights[f"{module}.weight"].add_(up.float() @ down.float())
    return fill(published.transformer, published.weights)


def published_adapter(folder: str | Path) -> Adapter:
    """The adapter of a published folder; CheckpointError where it has none."""
    if (adapter := read_published(folder).adapter) is None:
        raise CheckpointError(f"{folder} has no LoRA matrices: give a folder of the published adapters.")
    return adapter


def read_published(folder: str | Path) -> Published:
    """All of a published folder; raises CheckpointError like `load_published`."""
    folder = Path(folder)
    transformer = _empty_model(folder / CONFIG_FILE)
    shapes = {name: tensor.shape for name, tensor in transformer.state_dict().items()}
    weights: Tensors = {}
    lora: Tensors = {}
    adapted: set[str] = set()  # also holds a linear whose two matrices are both missing
    for path in shards_of(folder):
        for key, tensor in load_shard(path).items():
            name = plain_name(key, path)
            if ".base_layer." in name:
                adapted.add(name.partition(".base_layer.")[0])
                name = name.replace(".base_layer.", ".")
            part = lora if ".lora_" in name else weights
            if name in part:
                raise CheckpointError(f"{path} repeats {key} of another file: keep one of the two.")
            if part is weights:
                check_shape(key, tensor.shape, shapes.get(name), path)
            part[name] = tensor
    check_complete(weights, shapes, folder, _key)
    return Published(
        transformer, weights, _adapter(weights, lora, adapted, folder) if adapted or lora else None
    )


def _empty_model(path: Path) -> PoseGenTransformer3DModel:
    """The model of a `model_config.json` on the meta device."""
    with torch.device("meta"):
        return PoseGenTransformer3DModel(**transformer_config(read_json(path), path))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; CheckpointError where there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): fetch its folder again, in full.") from error


def shards_of(folder: Path) -> list[Path]:
    """A folder's shards; CheckpointError where there are none."""
    if not (shards := sorted(folder.glob("*.bin"))):
        raise CheckpointError(f"{folder} holds no .bin files: give a published folder, in full.")
    return shards


def load_shard(path: Path) -> Tensors:
    """The tensors of a shard, memory-mapped; writing to them does not change the file.

    Raises CheckpointError where the file is damaged or holds anything but tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith("data.pkl"):
                    archive.read(member)  # compares its checksum: damaged pickles do anything, also load
        with torch.serialization.set_default_mmap_options(mmap.MAP_PRIVATE):
            tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except UNREADABLE as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path} cannot be read ({reason}): fetch it again.") from error
    if not isinstance(tensors, dict) or not all(isinstance(part, torch.Tensor) for part in tensors.values()):
        raise CheckpointError(
            f"{path} is not a plain dictionary of tensors: give a published folder's shards."
        )
    return tensors


def plain_name(key: str, path: Path) -> str:
    """The diffusers name of a shard's key, without the adapter's name; CheckpointError for a key Wan does not have."""
    try:
        return diffusers_name(key.removeprefix(PREFIX)).replace(".default.", ".")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _key(name: str) -> str:
    """A shard's key for a diffusers name."""
    return PREFIX + re.sub(r"(\.lora_[AB])\.", r"\1.default.", published_name(name))


def _adapter(weights: Tensors, lora: Tensors, adapted: set[str], folder: Path) -> Adapter:
    modules = adapted | {name.partition(".lora_")[0] for name in lora}
    rank = next((tensor.shape[0] for name, tensor in lora.items() if ".lora_A." in name), 0)
    embeddings = {name: tensor for name, tensor in weights.items() if is_embedding(name)}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(modules),
        modules_to_save=[name for name in EMBEDDINGS if any(key.startswith(name) for key in embeddings)],
    )
    adapter = Adapter(config, lora | embeddings)
    adapter.check({name: tensor.shape for name, tensor in weights.items()}, folder, _key)
    return adapter


def fill(transformer: PoseGenTransformer3DModel, weights: Tensors) -> PoseGenTransformer3DModel:
    """Give a model on the meta device its tensors, which it takes without a copy."""
    kept = {
        name: tensor.float() if stays_float32(transformer, name) else tensor
        for name, tensor in weights.items()
    }
    transformer.load_state_dict(kept, assign=True)
    return transformer.eval()


def save_published(
    transformer: WanTransformer3DModel, folder: str | Path, adapter_name: str | None = None
) -> None:
    """Write a transformer, with one of its adapters or with none, as a published folder.

    Raises CheckpointError where the format cannot express the transformer, or shards are in the folder already.
    """
    folder = Path(folder)
    settings = model_config(transformer.config)
    if any(folder.glob("*.bin")):
        raise CheckpointError(f"{folder} holds .bin files already: give an empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n")
    shards = list(_split(published_tensors(transformer, adapter_name)))
    for number, shard in enumerate(shards, 1):
        # torch.save writes all of the storage that a tensor looks at, so a view into a larger one is copied.
        own = {
            key: part if part.untyped_storage().nbytes() == part.nbytes else part.clone()
            for key, part in shard.items()
        }
        torch.save(own, folder / f"pytorch_model-{number:05}-of-{len(shards):05}.bin")


def published_tensors(transformer: WanTransformer3DModel, adapter_name: str | None = None) -> Tensors:
    """A transformer's tensors by published keys; an adapter's scale is multiplied into B, as the format has none."""
    tensors = model_weights(transformer)
    if adapter_name is not None:
        adapter = adapter_of(transformer, adapter_name)
        tensors |= adapter.embeddings
        for module in adapter.modules:
            for kind in ("weight", "bias"):
                if (name := f"{module}.{kind}") in tensors:
                    tensors[f"{module}.base_layer.{kind}"] = tensors.pop(name)
            tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = adapter.matrices(module)
    return {_key(name): tensor.detach() for name, tensor in tensors.items()}


def _split(tensors: Tensors) -> Iterator[Tensors]:
    shard: Tensors = {}
    size = 0
    for key, tensor in tensors.items():
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[key] = tensor
        size += tensor.nbytes
    yield shard

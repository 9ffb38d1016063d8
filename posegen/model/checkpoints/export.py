"""Adapters for other programs: LoRA files that diffusers and ComfyUI load.

PEFT needs no export, as an adapter's folder is its own format. The scale (alpha / rank) is multiplied into the up
matrix, so that a file means the same to every reader, whether it reads alpha or not. diffusers' LoRA loaders take
nothing but LoRA matrices, so the embeddings travel in a second file. ComfyUI takes differences to the model's own
weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from diffusers.loaders import WanLoraLoaderMixin
from safetensors.torch import save_file

from posegen.model.checkpoints.lora import Adapter, is_embedding, read_adapter
from posegen.model.checkpoints.names import CheckpointError, Tensors, check_complete, published_name
from posegen.model.checkpoints.reading import read_tensors


def export_lora(
    folder: str | Path,
    path: str | Path,
    format: Literal["diffusers", "comfyui"],
    base: str | Path | None = None,
) -> None:
    """Write the adapter of a folder to a `.safetensors` file of another program's format.

    diffusers: LoRA matrices under `transformer.`, for `load_lora_weights` of Wan's pipelines and for a transformer's
    `load_lora_adapter`. The embeddings go to `<name>_embeddings.safetensors` beside it: give them to
    `transformer.load_state_dict(load_file(...), strict=False)` before the LoRA is loaded.
    comfyui: LoRA matrices and embeddings under `diffusion_model.` and Wan's original names. Embeddings are differences
    (`.diff`, `.diff_b`, float32) to those of `base`, the diffusers folder of the transformer that ComfyUI holds; one
    that `base` does not have is written whole, for a node that creates it with zeros.
    Raises CheckpointError where the folder (or `base`) is missing or damaged.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} does not end in .safetensors, as LoRA files must: give another name.")
    adapter = read_adapter(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "diffusers":
        _write_diffusers(adapter, path)
    elif format == "comfyui":
        _write_comfyui(adapter, path, base)
    else:
        raise CheckpointError(f"There is no LoRA format {format!r}: choose diffusers or comfyui.")


def _write_diffusers(adapter: Adapter, path: Path) -> None:
    tensors: Tensors = {}
    for module in adapter.modules:
        down, up = adapter.matrices(module)
        tensors |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
    # Without a configuration in the header, every version of diffusers takes the scale to be 1, as it is here.
    WanLoraLoaderMixin.save_lora_weights(path.parent, transformer_lora_layers=tensors, weight_name=path.name)
    if adapter.embeddings:
        save_file(adapter.embeddings, path.with_name(f"{path.stem}_embeddings.safetensors"))


def _write_comfyui(adapter: Adapter, path: Path, base: str | Path | None) -> None:
    tensors: Tensors = {}
    for module in adapter.modules:
        name = f"diffusion_model.{published_name(module)}"
        down, up = adapter.matrices(module)
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    before = read_embeddings(base) if adapter.embeddings else {}
    for name, tensor in adapter.embeddings.items():
        module, _, kind = published_name(name).rpartition(".")
        difference = tensor.float() - before[name].float() if name in before else tensor.float()
        tensors[f"diffusion_model.{module}.{'diff' if kind == 'weight' else 'diff_b'}"] = difference
    save_file(tensors, path, metadata={"format": "pt"})


def read_embeddings(folder: str | Path | None) -> Tensors:
    """The patch embeddings of a transformer's diffusers folder, plain Wan's or PoseGen's."""
    if folder is None:
        raise CheckpointError(
            "ComfyUI takes embeddings as differences: give the folder of the transformer that it holds as base."
        )
    embeddings: Tensors = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        embeddings |= read_tensors(path, is_embedding)
    check_complete(embeddings, ("patch_embedding.weight", "patch_embedding.bias"), folder)
    return embeddings

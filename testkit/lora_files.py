"""LoRA files of known values in every spelling, and the plain model with the same values merged in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig
from safetensors.torch import save_file

from posegen.model.checkpoints import Adapter, diffusers_name, published_name, write_adapter
from testkit.single_files import linear_modules

Tensors = dict[str, torch.Tensor]
Matrices = dict[str, tuple[torch.Tensor, torch.Tensor]]

RANK, ALPHA = 8, 2.0


def random_matrices(wan: WanTransformer3DModel, seed: int = 0) -> Matrices:
    """A (RANK, in) and B (out, RANK) for every linear in blocks and two outside, by Wan's original names."""
    generator = torch.Generator().manual_seed(seed)
    matrices: Matrices = {}
    for module in [*linear_modules(wan), "time_projection.1", "head.head"]:
        rows, columns = wan.get_submodule(diffusers_name(module)).weight.shape
        down = torch.randn(RANK, columns, generator=generator) / columns**0.5
        matrices[module] = down, torch.randn(rows, RANK, generator=generator)
    return matrices


def merged(wan: WanTransformer3DModel, matrices: Matrices, factor: float) -> WanTransformer3DModel:
    """The model with `factor * B @ A` added to its weights, in place."""
    for module, (down, up) in matrices.items():
        wan.get_submodule(diffusers_name(module)).weight.data += factor * up @ down
    return wan


def peft_folder(matrices: Matrices, folder: Path) -> Path:
    """As PEFT saves an adapter: alpha in the configuration."""
    modules = {diffusers_name(module): pair for module, pair in matrices.items()}
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=[*modules])
    tensors = {f"{module}.lora_A.weight": down for module, (down, _) in modules.items()}
    tensors |= {f"{module}.lora_B.weight": up for module, (_, up) in modules.items()}
    write_adapter(Adapter(config, tensors), folder)
    return folder


def peft_file(matrices: Matrices, folder: Path) -> Path:
    return peft_folder(matrices, folder) / "adapter_model.safetensors"


def diffusers_file(matrices: Matrices, folder: Path) -> Path:
    """As diffusers saves an adapter: alpha in the header."""
    tensors = spelled(matrices, lambda module: f"transformer.{diffusers_name(module)}", "lora_A", "lora_B")
    header = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA}
    return saved(tensors, folder, {"lora_adapter_metadata": json.dumps(header)})


def comfyui_file(matrices: Matrices, folder: Path) -> Path:
    tensors = spelled(matrices, lambda module: f"diffusion_model.{module}", "lora_A", "lora_B")
    return saved(tensors | alphas(matrices, lambda module: f"diffusion_model.{module}"), folder)


def down_and_up_file(matrices: Matrices, folder: Path) -> Path:
    tensors = spelled(matrices, lambda module: f"diffusion_model.{module}", "lora_down", "lora_up")
    return saved(tensors | alphas(matrices, lambda module: f"diffusion_model.{module}"), folder)


def musubi_file(matrices: Matrices, folder: Path) -> Path:
    def name(module: str) -> str:
        return f"lora_unet_{module.replace('.', '_')}"

    return saved(spelled(matrices, name, "lora_down", "lora_up") | alphas(matrices, name), folder)


WITH_ALPHA: dict[str, Callable[[Matrices, Path], Path]] = {
    "PEFT's folder": peft_folder,
    "PEFT's file": peft_file,
    "diffusers' file": diffusers_file,
    "ComfyUI's file": comfyui_file,
    "lora_down and lora_up": down_and_up_file,
    "musubi's file": musubi_file,
}
"""Writers of files whose strength is ALPHA / RANK."""


def distillation_file(matrices: Matrices, differences: Tensors, folder: Path) -> Path:
    """As the distillation LoRAs: no alpha, so the strength is 1, and whole differences beside the matrices."""
    tensors = spelled(matrices, lambda module: f"diffusion_model.{module}", "lora_down", "lora_up")
    return saved(tensors | {f"diffusion_model.{key}": part for key, part in differences.items()}, folder)


def random_differences(wan: WanTransformer3DModel) -> Tensors:
    """Differences of all biases, norms and modulations and of one linear, as keys of a distillation LoRA."""
    generator = torch.Generator().manual_seed(1)
    found: Tensors = {}
    for name, tensor in wan.state_dict().items():
        stem, _, kind = published_name(name).rpartition(".")
        difference = 0.05 * torch.randn(tensor.shape, generator=generator)
        if kind == "modulation":
            found[f"{stem}.diff_m"] = difference
        elif kind == "bias":
            found[f"{stem}.diff_b"] = difference
        elif "norm" in stem or stem in ("img_emb.proj.1", "patch_embedding"):
            found[f"{stem}.diff"] = difference
    return found


def with_differences(
    wan: WanTransformer3DModel, differences: Tensors, factor: float
) -> WanTransformer3DModel:
    """The model with `factor` times the differences added, in place, but for those of the patch embedding."""
    weights = {published_name(name): tensor for name, tensor in wan.state_dict().items()}
    endings = {"diff": "weight", "diff_b": "bias", "diff_m": "modulation"}
    for key, difference in differences.items():
        stem, _, kind = key.rpartition(".")
        if stem != "patch_embedding":
            weights[f"{stem}.{endings[kind]}"] += factor * difference
    return wan


def spelled(matrices: Matrices, name: Callable[[str], str], down: str, up: str) -> Tensors:
    tensors = {f"{name(module)}.{down}.weight": pair[0] for module, pair in matrices.items()}
    return tensors | {f"{name(module)}.{up}.weight": pair[1] for module, pair in matrices.items()}


def alphas(matrices: Matrices, name: Callable[[str], str]) -> Tensors:
    return {f"{name(module)}.alpha": torch.tensor(ALPHA) for module in matrices}


def saved(tensors: Tensors, folder: Path, header: dict[str, str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "lora.safetensors", header)
    return folder / "lora.safetensors"

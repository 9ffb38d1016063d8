"""LoRA files that other programs write, loaded on top of a transformer and of its own adapters.

Low-rank matrices become an adapter of PEFT, so that quantised weights stay quantised, and a file's scale and strength
are multiplied into the up matrix. Whole differences are added to the model's own tensors. Differences of patch
embeddings are left out: PoseGen's adapters bring embeddings of their own, which those would spoil.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig
from torch import nn

from posegen.model.checkpoints.lora import (
    CONFIG_FILE,
    TENSORS_FILE,
    Adapter,
    attach_adapter,
    is_embedding,
    lora_scale,
    model_shapes,
    plain_name,
    read_adapter,
    set_adapter,
)
from posegen.model.checkpoints.names import CheckpointError, Tensors, check_shape, published_name
from posegen.model.checkpoints.reading import read_header, read_tensors
from posegen.model.scaled_linear import ScaledLinear

logger = logging.getLogger(__name__)

PREFIXES = (
    "base_model.model.",  # PEFT
    "transformer.",  # diffusers
    "model.diffusion_model.",  # ComfyUI
    "diffusion_model.",
    "lora_unet__",  # musubi and others of Kohya's descent, with underscores for dots
    "lora_unet_",
)
KINDS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "alpha": "alpha",
    "diff": "weight",
    "diff_b": "bias",
    "diff_m": "weight",  # of the modulation beside it
}
DIFFUSERS_HEADER = "lora_adapter_metadata"


@dataclass
class LoraFile:
    """What a LoRA file adds to a transformer, by diffusers names.

    matrices: A (rank, in) and B (out, rank) of each linear, with the file's scale in B, so that `B @ A` is what is
    added. differences: what is added to whole tensors. left_out: keys of patch embeddings.
    """

    matrices: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    differences: Tensors = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def require_switchable(self, path: str | Path) -> None:
        """Raise CheckpointError unless all of it can be taken out of a transformer again."""
        if self.differences or not self.matrices:
            what = "changes whole tensors" if self.differences else "has no low-rank matrices"
            raise CheckpointError(
                f"{path} {what}, so it cannot be switched on and off: take a LoRA file of matrices alone."
            )


def load_lora(
    transformer: WanTransformer3DModel,
    path: str | Path,
    adapter_name: str,
    strength: float = 1.0,
    switched: bool = False,
) -> None:
    """Add a LoRA file to a transformer, beside whatever adapters are active; any number may be added.

    path: a `.safetensors` file (or a PEFT folder) with names of PEFT, diffusers, ComfyUI (`diffusion_model.`) or musubi
    (`lora_unet_`): low-rank matrices with or without alpha, and whole differences (`.diff`, `.diff_b`, `.diff_m`).
    adapter_name: of the PEFT adapter that the matrices become; whole differences cannot be taken out again. strength:
    factor on all that the file adds. switched: the adapter is only added, to be switched on and off by `set_adapter`.
    Patch embeddings are left out, which a warning says.
    Raises CheckpointError where the file is damaged, or holds a key that fits nothing in the transformer, or whole
    differences that are to be switched, and then changes nothing.
    """
    file = read_lora_file(path, model_shapes(transformer))
    if switched:
        file.require_switchable(path)
    if file.left_out:
        logger.warning(
            "%s: left out %s, as PoseGen's adapters bring patch embeddings of their own.",
            path,
            ", ".join(file.left_out),
        )
    active = transformer.active_adapters() if getattr(transformer, "peft_config", {}) else []
    if file.matrices:
        attach_adapter(transformer, _adapter(file, strength), adapter_name, path)
        set_adapter(transformer, active if switched else [*active, adapter_name])
    keys = {plain_name(key): key for key, _ in transformer.named_parameters()}
    for name, difference in file.differences.items():
        _add(transformer, keys[name], strength * difference.float())


def read_lora_file(path: str | Path, shapes: Mapping[str, Sequence[int]]) -> LoraFile:
    """What a LoRA file adds to a transformer whose tensors have these shapes, by diffusers names.

    Raises CheckpointError like `load_lora`.
    """
    path = Path(path)
    tensors, config = _read(path)
    modules = _spellings(shapes)
    found = LoraFile()
    pairs: dict[str, Tensors] = {}
    scales: dict[str, float] = {}
    for key, tensor in tensors.items():
        stem, kind = _split(key)
        module = modules.get(stem, "")
        matrix = kind in ("down", "up", "alpha")
        target = module if kind == "weight" and module in shapes else f"{module}.{kind}"
        if not module or not (matrix or target in shapes):
            raise CheckpointError(
                f"{path} has {key}, which fits nothing in this transformer: take a LoRA file of Wan2.1 "
                "image-to-video."
            )
        if kind in pairs.get(module, ()) or target in found.differences:
            raise CheckpointError(f"{path} has {key} a second time under another name: fetch it again.")
        if is_embedding(module):
            found.left_out.append(key)
        elif matrix:
            pairs.setdefault(module, {})[kind] = tensor
            scales[module] = lora_scale(config, stem) if config else 1.0
        else:
            check_shape(key, tensor.shape, shapes[target], path)
            found.differences[target] = tensor
    for module, pair in pairs.items():
        found.matrices[module] = _matrices(module, pair, scales[module], shapes, path)
    return found


def _read(path: Path) -> tuple[Tensors, LoraConfig | None]:
    """A file's tensors, and how PEFT scales them where a configuration says it."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or (path.name == TENSORS_FILE and (folder / CONFIG_FILE).is_file()):
        adapter = read_adapter(folder)
        return adapter.tensors, adapter.config
    header = read_header(path).get(DIFFUSERS_HEADER)
    return read_tensors(path), _config(header, path) if header else None


def _config(header: str, path: Path) -> LoraConfig:
    """The configuration in a header that diffusers wrote."""
    wanted = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
    try:
        said = {name.removeprefix("transformer."): value for name, value in json.loads(header).items()}
        return LoraConfig(**{name: said[name] for name in wanted if name in said})
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} has a {DIFFUSERS_HEADER} that cannot be read ({error}): fetch it again."
        ) from error


def _spellings(shapes: Iterable[str]) -> dict[str, str]:
    """What files call a transformer's modules and tensors without modules, and their diffusers names."""
    found: dict[str, str] = {}
    for name in shapes:
        module = name.removesuffix(".weight").removesuffix(".bias")
        original = published_name(module)
        found |= dict.fromkeys((module, original, original.replace(".", "_")), module)
    return found


def _split(key: str) -> tuple[str, str]:
    """The module's name in a key, without prefixes, and what the key holds of it; "" where that is not known."""
    name = key
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    for ending, kind in KINDS.items():
        if name.endswith(f".{ending}"):
            stem = name.removesuffix(f".{ending}")
            return f"{stem.removesuffix('.modulation')}.modulation" if ending == "diff_m" else stem, kind
    return name, ""


def _matrices(
    module: str, pair: Tensors, scale: float, shapes: Mapping[str, Sequence[int]], path: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """One module's two matrices, with the scale in the second; an alpha in the file goes before `scale`."""
    name = published_name(module)
    if "down" not in pair or "up" not in pair:
        missing = "up" if "down" in pair else "down"
        raise CheckpointError(f"{path} has no {missing} matrix for {name}: fetch it again.")
    weight, down, up = shapes.get(f"{module}.weight", ()), pair["down"], pair["up"]
    if len(weight) != 2:
        raise CheckpointError(f"{path} has matrices for {name}, which is no linear layer: take another file.")
    rank = down.shape[0] if down.numel() else 1
    check_shape(f"the down matrix of {name}", down.shape, (rank, weight[1]), path)
    check_shape(f"the up matrix of {name}", up.shape, (weight[0], rank), path)
    if "alpha" in pair:
        check_shape(f"alpha of {name}", pair["alpha"].flatten().shape, (1,), path)
        scale = pair["alpha"].item() / rank
    return down, up.float() * scale


def _adapter(file: LoraFile, strength: float) -> Adapter:
    """The matrices as a PEFT adapter of scale 1."""
    ranks = {module: down.shape[0] for module, (down, _) in file.matrices.items()}
    rank = max(ranks.values())
    others = {module: other for module, other in ranks.items() if other != rank}
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=[*ranks], rank_pattern=others, alpha_pattern=others
    )
    tensors: Tensors = {}
    for module, (down, up) in file.matrices.items():
        tensors |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up * strength}
    return Adapter(config, tensors)


def _add(transformer: WanTransformer3DModel, key: str, difference: torch.Tensor) -> None:
    """Add a difference to one of the transformer's own tensors; a quantised linear is expanded for it."""
    module, _, kind = key.rpartition(".")
    linear = transformer.get_submodule(module)
    if kind == "weight" and isinstance(linear, nn.Linear) and not linear.weight.is_floating_point():
        transformer.set_submodule(module, _expanded(linear, transformer.patch_embedding.weight.dtype))
    parameter = transformer.get_parameter(key)
    parameter.data = (parameter.float() + difference.to(parameter.device)).to(parameter.dtype)


def _expanded(linear: nn.Linear, dtype: torch.dtype) -> nn.Linear:
    """A quantised linear with its weight in a plain dtype."""
    if isinstance(linear, ScaledLinear):
        weight = linear.expanded(dtype)
    else:
        from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

        weight = dequantize_gguf_tensor(linear.weight).to(dtype)
    plain = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    plain.bias = linear.bias
    return plain

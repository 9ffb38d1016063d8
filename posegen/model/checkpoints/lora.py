"""Adapters of a transformer: LoRA matrices of its linears, and its patch embeddings trained as a whole.

An adapter's folder is PEFT's own (`adapter_config.json`, `adapter_model.safetensors`), and the whole embeddings are
PEFT's `modules_to_save`, so one file holds all, PEFT loads it as it is, and switching adapters switches the embeddings
too. diffusers' own `set_adapter` and `set_adapters` switch only the LoRA part; use `set_adapter` of this file. To
train, add an adapter with `modules_to_save=[*EMBEDDINGS]`: PEFT compares ends of names, so the first of the three means
all of them anyway. Under ZeRO-3, save inside `deepspeed.zero.GatheredParameters`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig
from peft.functional import get_peft_model_state_dict
from peft.functional import set_adapter as set_peft_adapter
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file
from torch import nn

from posegen.model.checkpoints.names import CheckpointError, Tensors, check_complete, check_shape
from posegen.model.checkpoints.reading import read_tensors

EMBEDDINGS = ("patch_embedding", "reference_patch_embedding", "hand_patch_embedding")
PEFT_PREFIX = "base_model.model."  # how a PeftModel calls the model that it wraps
CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """An adapter's tensors by diffusers names, and how PEFT applies them.

    tensors: `X.lora_A.weight` (rank, in) and `X.lora_B.weight` (out, rank) of each adapted linear X, and
    `patch_embedding.weight` and the like for embeddings trained as a whole.
    """

    config: LoraConfig
    tensors: Tensors

    @property
    def modules(self) -> list[str]:
        """Names of the adapted linears."""
        return [
            name.removesuffix(".lora_A.weight") for name in self.tensors if name.endswith(".lora_A.weight")
        ]

    @property
    def lora(self) -> Tensors:
        """The LoRA matrices alone."""
        return {name: tensor for name, tensor in self.tensors.items() if ".lora_" in name}

    @property
    def embeddings(self) -> Tensors:
        """The embeddings alone."""
        return {name: tensor for name, tensor in self.tensors.items() if ".lora_" not in name}

    def matrices(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A (rank, in) and B (out, rank) of one linear with its scale in B, so that `B @ A` is what is added."""
        scale = lora_scale(self.config, module)
        up = self.tensors[f"{module}.lora_B.weight"]
        return self.tensors[f"{module}.lora_A.weight"], up if scale == 1 else up * scale

    def check(
        self, shapes: Mapping[str, Sequence[int]], where: object, spelled: Callable[[str], str] = str
    ) -> None:
        """Raise CheckpointError unless the adapter fits a model of these shapes, with no tensor left over."""
        expected: dict[str, Sequence[int]] = {}
        for name, shape in shapes.items():
            module = name.removesuffix(".weight")
            if module != name and len(shape) == 2 and check_target_module_exists(self.config, module):
                rank = lora_rank(self.config, module)
                expected[f"{module}.lora_A.weight"] = (rank, shape[1])
                expected[f"{module}.lora_B.weight"] = (shape[0], rank)
            elif is_embedding(name) and self.config.modules_to_save:
                expected[name] = shape
        for name, tensor in self.tensors.items():
            check_shape(spelled(name), tensor.shape, expected.get(name), where)
        check_complete(self.tensors, expected, where, spelled)


def lora_rank(config: LoraConfig, module: str) -> int:
    """Rank of one linear's matrices, as the configuration says."""
    pattern = config.rank_pattern or {}
    return pattern.get(get_pattern_key(pattern, module), config.r)


def lora_scale(config: LoraConfig, module: str) -> float:
    """Factor on `B @ A` of one linear, alpha / rank."""
    pattern = config.alpha_pattern or {}
    alpha = pattern.get(get_pattern_key(pattern, module), config.lora_alpha)
    rank = lora_rank(config, module)
    return alpha / (rank**0.5 if config.use_rslora else rank)


def is_embedding(name: str) -> bool:
    """Whether a tensor belongs to the embeddings that are trained as a whole."""
    return name.split(".")[0] in EMBEDDINGS


def save_adapter(transformer: WanTransformer3DModel, adapter_name: str, folder: str | Path) -> None:
    """Write one adapter of a transformer to a folder, in PEFT's layout."""
    write_adapter(adapter_of(transformer, adapter_name), folder)


def load_adapter(transformer: WanTransformer3DModel, folder: str | Path, adapter_name: str) -> None:
    """Add the adapter of a folder to a transformer, under a new name; it becomes the active one.

    Raises CheckpointError where the folder's files are missing, damaged or of another model, or the name is in use.
    """
    attach_adapter(transformer, read_adapter(folder), adapter_name, Path(folder) / TENSORS_FILE)


def attach_adapter(
    transformer: WanTransformer3DModel, adapter: Adapter, adapter_name: str, where: object = "The adapter"
) -> None:
    """Add an adapter to a transformer, in its dtype and on its device; the adapter becomes the active one.

    `where` the adapter is from stands in errors, which are those of `load_adapter`.
    """
    if adapter_name in getattr(transformer, "peft_config", {}):
        raise CheckpointError(f"This transformer has an adapter {adapter_name!r} already: give another name.")
    adapter.check(model_shapes(transformer), where)
    patches = transformer.patch_embedding.weight
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two adapters are what is wanted
        transformer.load_lora_adapter(
            {name: tensor.to(patches.device, patches.dtype) for name, tensor in adapter.tensors.items()},
            prefix=None,
            adapter_name=adapter_name,
            metadata=adapter.config.to_dict(),
            low_cpu_mem_usage=True,
        )
    set_adapter(transformer, adapter_name)


def set_adapter(
    transformer: WanTransformer3DModel, adapter_names: str | Sequence[str], trainable: bool = False
) -> None:
    """Make these adapters the active ones, their embeddings too; they alone take gradients, where `trainable`.

    At most one of them may bring embeddings.
    """
    names = [adapter_names] if isinstance(adapter_names, str) else [*adapter_names]
    for name in names:
        _check_name(transformer, name)
    set_peft_adapter(transformer, names, inference_mode=not trainable)


def set_strengths(transformer: WanTransformer3DModel, strengths: Mapping[str, float]) -> None:
    """Multiply what each of these adapters adds by its number, in place of the number set before; 1 is as loaded."""
    for module in transformer.modules():
        if isinstance(module, LoraLayer):
            for name in strengths.keys() & module.scaling.keys():
                module.set_scale(name, strengths[name])


def adapter_of(transformer: WanTransformer3DModel, adapter_name: str) -> Adapter:
    """One adapter of a transformer, its tensors shared, not copied."""
    _check_name(transformer, adapter_name)
    tensors = get_peft_model_state_dict(transformer, adapter_name=adapter_name)
    return Adapter(transformer.peft_config[adapter_name], tensors)


def _check_name(transformer: WanTransformer3DModel, adapter_name: str) -> None:
    known = getattr(transformer, "peft_config", {})
    if adapter_name not in known:
        raise CheckpointError(
            f"This transformer has no adapter {adapter_name!r} ({', '.join(known) or 'none at all'}): load it first."
        )


def model_weights(transformer: WanTransformer3DModel) -> Tensors:
    """A transformer's own tensors under their plain names, whatever adapters it carries; shared, not copied.

    Raises CheckpointError for a transformer of quantised weights, which no format here can hold.
    """
    tensors = {plain_name(name): tensor for name, tensor in transformer.state_dict().items() if is_own(name)}
    if quantised := [name for name, tensor in tensors.items() if not tensor.is_floating_point()]:
        raise CheckpointError(
            f"{quantised[0]} is quantised, so this transformer cannot be saved: save its adapters alone, or load it "
            "from a file that is not quantised."
        )
    return tensors


def model_shapes(transformer: WanTransformer3DModel) -> dict[str, Sequence[int]]:
    """Shapes of a transformer's own parameters by plain names; of a quantised weight, that which it expands to."""
    shapes: dict[str, Sequence[int]] = {
        plain_name(name): parameter.shape
        for name, parameter in transformer.named_parameters()
        if is_own(name)
    }
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and is_own(name):
            shapes[f"{plain_name(f'{name}.')}weight"] = (module.out_features, module.in_features)
    return shapes


def is_own(name: str) -> bool:
    """Whether a tensor or module is the model's own, not an adapter's."""
    return ".lora_" not in name and ".modules_to_save." not in name


def plain_name(name: str) -> str:
    """A tensor's name in the model without adapters."""
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")


def write_adapter(adapter: Adapter, folder: str | Path) -> None:
    """Write an adapter to a folder, in PEFT's layout; the same adapter gives the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {PEFT_PREFIX + name: tensor.contiguous() for name, tensor in adapter.tensors.items()}
    save_file(tensors, folder / TENSORS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(
        json.dumps(config_dict(adapter.config), indent=2, sort_keys=True) + "\n"
    )


def config_dict(config: LoraConfig) -> dict[str, object]:
    """A configuration as JSON holds it, its sets in order."""
    return {
        name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()
    }


def read_adapter(folder: str | Path) -> Adapter:
    """The adapter of a folder in PEFT's layout, its tensors memory-mapped.

    Raises CheckpointError where a file is missing or damaged, or is not of a LoRA adapter.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG_FILE}: give the folder of an adapter.")
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} is not a LoRA configuration ({error}): fetch it again."
        ) from error
    if not isinstance(config, LoraConfig):
        raise CheckpointError(f"{folder / CONFIG_FILE} is not of a LoRA adapter: give one that is.")
    path = folder / TENSORS_FILE
    tensors = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in read_tensors(path).items()}
    adapter = Adapter(config, tensors)
    matrices = {f"{module}.lora_{half}.weight" for module in adapter.modules for half in "AB"}
    if other := [name for name in tensors if name not in matrices and not is_embedding(name)]:
        raise CheckpointError(
            f"{path} has {other[0]}, which is neither a plain LoRA matrix nor a patch embedding: give an adapter that "
            "holds nothing else."
        )
    check_complete(tensors, matrices, path)
    return adapter

"""Makes the mini model's network twice as wide without changing what it computes, so that training can go on from it.

Every channel is doubled and every input's weight halved (Net2Net, arXiv 1511.05641): layer norms, the norm of queries
and keys over all heads, and the heads themselves give for doubled channels what they gave before, twice. So that the
two halves can learn different things, their weights differ by amounts that cancel.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mini_model.posed import difference, merged, network_weights
from posegen.model.checkpoints import write_adapter
from posegen.model.transformer import PoseGenTransformer3DModel

APART = 0.25
"""How far the two halves' weights lie apart, in 1 / sqrt(inputs)."""
MODULATIONS = 6
"""Of a block: the rows of the time projection are so many vectors one behind another."""


@dataclass(frozen=True)
class WidenConfig:
    """Double the network's width."""

    model: Path = Path("build/mini/base")
    """Folder of the base model."""
    adapters: tuple[Path, ...] = ()
    """Folders of adapters on it."""
    output: Path = Path("build/mini/wide")
    """Folder to write: base/, and adapters/ by their names."""
    threads: int = 2
    """CPU threads."""
    seed: int = 0
    """Of what sets the halves apart."""


def write_wide(config: WidenConfig) -> None:
    """Writes the wide base and the wide adapters."""
    base = PoseGenTransformer3DModel.from_pretrained(config.model, subfolder="transformer").float()
    wide = wide_network(base)
    base_weights = widened(network_weights(config.model), wide, config.seed)
    wide.load_state_dict(base_weights)
    folder = config.output / "base"
    shutil.copytree(config.model, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("adapters"))
    wide.save_pretrained(folder / "transformer")
    for adapter in config.adapters:
        narrow = merged(config.model, adapter).state_dict()
        wide.load_state_dict(widened(narrow, wide, config.seed))
        write_adapter(difference(wide, base_weights), config.output / "adapters" / adapter.name)


def wide_network(network: PoseGenTransformer3DModel) -> PoseGenTransformer3DModel:
    """A network of twice the heads and the feed-forward width, its weights still to be set."""
    config = dict(network.config)
    doubled = {name: 2 * config[name] for name in ("num_attention_heads", "ffn_dim")}
    return PoseGenTransformer3DModel.from_config(config | doubled)


def widened(weights: dict[str, Tensor], wide: PoseGenTransformer3DModel, seed: int) -> dict[str, Tensor]:
    """The wide network's weights that compute what the narrow one's do; the same seed sets them apart equally."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: _widened(name, weights[name], shape, generator)
        for name, shape in ((name, tensor.shape) for name, tensor in wide.state_dict().items())
    }


def _widened(name: str, weight: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """One tensor: its outputs doubled, its inputs doubled and halved."""
    if weight.shape[0] != shape[0]:
        parts = MODULATIONS if "time_proj" in name else 1
        weight = weight.unflatten(0, (parts, -1)).repeat(1, 2, *[1] * (weight.ndim - 1)).flatten(0, 1)
    if weight.shape == shape:
        return weight
    if name.endswith("scale_shift_table"):
        return torch.cat([weight, weight], dim=-1)
    apart = APART * weight.shape[1] ** -0.5 * torch.randn(weight.shape, generator=generator)
    return torch.cat([weight / 2 + apart, weight / 2 - apart], dim=1)

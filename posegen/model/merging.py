"""Adapters merged into the weights while a segment is denoised: no product of theirs in any pass.

What a weight was is kept on the host and copied back, so that it is the same to the last bit afterwards; subtracting
what was added would leave rounding errors. Outside of `AdapterMerger.merged` the transformer is as it was, so it can be
saved, told from others, or given further adapters at any time. A merged weight is rounded to the weights' dtype once,
so results differ from those of unmerged adapters by that: about 1e-6 of the output in float32, 4e-3 in bfloat16, which
rounds each product as much.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from weakref import WeakKeyDictionary

import torch
from diffusers import WanTransformer3DModel
from peft.tuners.lora import Linear
from torch import nn

from posegen.common.pinned import host_tensor
from posegen.model.checkpoints import set_adapter, set_strengths


class AdapterMerger:
    """Merges adapters of a transformer, and keeps the memory for original weights from one time to the next."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[nn.Module, torch.Tensor] = WeakKeyDictionary()

    def active(
        self,
        transformer: WanTransformer3DModel,
        names: Sequence[str],
        strengths: Mapping[str, float],
        device: torch.device | None,
    ) -> AbstractContextManager[None]:
        """These adapters are the active ones, at their strengths (see `set_strengths`), and merged.

        device: as of `merged`, or None where no weight may be written to; adapters are beside them then.
        """
        set_strengths(transformer, strengths)
        if device is not None and getattr(transformer, "peft_config", {}):
            return self.merged(transformer, names, device)
        if getattr(transformer, "peft_config", {}):
            set_adapter(transformer, names)
        return nullcontext()

    @contextmanager
    def merged(
        self, transformer: WanTransformer3DModel, names: Sequence[str], device: torch.device
    ) -> Iterator[None]:
        """These adapters are the active ones, and merged where a linear's weight is a plain one.

        Quantised linears keep their adapters beside the weight. Adapters that the user has fused stay fused. device:
        where sums are computed, also of weights that lie elsewhere.
        """
        layers = [module for module in transformer.modules() if isinstance(module, Linear)]
        fused = [layer.merged_adapters for layer in layers]
        changed: list[Linear] = []
        try:
            for layer in layers:
                layer.merged_adapters = []  # PEFT would subtract what is fused
            set_adapter(transformer, names)
            for layer, already in zip(layers, fused, strict=True):
                new = [name for name in names if name in layer.lora_A and name not in already]
                layer.merged_adapters = already
                if new and _is_plain(layer):
                    self._keep(layer)
                    changed.append(layer)
                    _add(layer, new, device)
                    layer.merged_adapters = [*already, *new]
            yield
        finally:
            for layer in changed:
                layer.get_base_layer().weight.data.copy_(self._kept[layer], non_blocking=True)
            for layer, already in zip(layers, fused, strict=True):
                layer.merged_adapters = already

    def _keep(self, layer: Linear) -> None:
        """Copies a layer's weight to the host."""
        weight = layer.get_base_layer().weight.data
        kept = self._kept.get(layer)
        if kept is None or (kept.shape, kept.dtype) != (weight.shape, weight.dtype):
            kept = self._kept[layer] = host_tensor(weight)
        kept.copy_(weight, non_blocking=True)


def segment_adapters(
    transformer: WanTransformer3DModel,
    own: str,
    others: Sequence[str],
    switched: Collection[str] = (),
    chosen: Collection[str] = (),
) -> list[str]:
    """The adapters that a segment is made with.

    Its own, if the transformer has any of `others`; all active ones beside those and beside the `switched` ones, which
    only segments have that have chosen them; and what it has chosen.
    """
    known = getattr(transformer, "peft_config", {})
    first = [own] if set(known) & {*others} else []
    left_out = {*others, *switched}
    active = [name for name in known and transformer.active_adapters() if name not in left_out]
    return [*first, *active, *chosen]


def _is_plain(layer: Linear) -> bool:
    """Whether a layer's adapters are low-rank matrices alone and its weight is what it computes with."""
    weight = layer.get_base_layer().weight.data
    plain = type(weight) is torch.Tensor and weight.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return plain and not layer.lora_variant and not any(layer.lora_bias.values())


def _add(layer: Linear, names: Sequence[str], device: torch.device) -> None:
    """Adds the products of adapters' matrices to a layer's weight, rounded once."""
    weight = layer.get_base_layer().weight
    total = weight.data.to(device, torch.float32)
    for name in names:
        up, down = (part[name].weight.to(device, torch.float32) for part in (layer.lora_B, layer.lora_A))
        total = torch.addmm(total, up, down, alpha=layer.scaling[name])
    weight.data.copy_(total)

"""What a video will take, told from a model folder's JSON files alone: its segments, the work and the memory."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from posegen.costs import Pass, flops_per_forward, generation_memory, model_dim, parameters, tokens
from posegen.loading import HEADROOM, Placement
from posegen.longvideo.conditions import MAX_TEXT_TOKENS
from posegen.longvideo.sampling import Guidance, flow_shift, schedule
from posegen.longvideo.segments import Plan
from posegen.model.folder import INDEX_FILE
from posegen.pipeline import PoseGenPipeline
from posegen.sharing import FRAMINGS, IN_FLIGHT, Form, SharedRange

Config = dict[str, Any]

CARDS = (8, 12, 16, 24, 32, 48, 80, 141)
"""GB of the cards that people have."""
QUANTISED = 1.5
"""Bytes for each number below which a single file holds quantised weights."""
TILE = (256, 256)
"""Height and width of a tile of Wan's VAE in diffusers, in pixels."""


def pipeline_settings(folder: Path) -> Config:
    """The settings that `PoseGenPipeline` takes from a folder, its defaults where the folder has none."""
    parameters = inspect.signature(PoseGenPipeline.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default not in (p.empty, None)}
    return defaults | {name: value for name, value in _json(folder / INDEX_FILE).items() if name in defaults}


@dataclass(frozen=True)
class Estimate:
    """The cost of one video; as text, a table of its segments, then lines with the work and the memory.

    framing: as in `PoseGenPipeline.job`; for "auto" the largest record is counted. form: of the anchor's record.
    placement: where the model lies. transformer: a single file in place of the folder's.
    """

    folder: Path
    plan: Plan
    size: tuple[int, int]
    steps: int
    guidance: Guidance
    framing: str
    placement: Placement
    form: Form = "key_value"
    transformer: Path | None = None

    @cached_property
    def config(self) -> Config:
        """The transformer's."""
        return _json(self.folder / "transformer" / "config.json")

    @property
    def segment(self) -> tuple[int, int, int]:
        """Frames, height and width of a segment."""
        return self.plan.segments[0].frames, self.size[1], self.size[0]

    @property
    def guided_steps(self) -> int:
        """Steps of a segment that have an unguided pass as well."""
        shift = flow_shift(_json(self.folder / "scheduler" / "scheduler_config.json"))
        return sum(self.guidance.applies(sigma) for sigma in schedule(self.steps, shift).sigmas[:-1])

    @property
    def passes(self) -> int:
        """Passes through the transformer for the whole video."""
        return len(self.plan.segments) * (self.steps + self.guided_steps)

    @property
    def flops(self) -> int:
        """Operations of those passes."""
        return self.passes * flops_per_forward(self._pass(self.placement))

    @property
    def record(self) -> int:
        """Bytes of the anchor's record; none where nobody reads it."""
        if self.framing == "off" or not self.plan.bridges:
            return 0
        config, count = self.config, sum(tokens(self.config, *self.segment))
        dim, branches = model_dim(config), 1 + bool(self.guided_steps)
        names = FRAMINGS if self.framing == "auto" else [self.framing]
        ranges = (SharedRange.of(name, self.steps, config["num_layers"]) for name in names)
        return max(
            shared.nbytes(count, dim, self.placement.itemsize, self.form, branches) for shared in ranges
        )

    @property
    def _entry(self) -> int:
        """Bytes of what is kept at one position."""
        count, dim = sum(tokens(self.config, *self.segment)), model_dim(self.config)
        one = SharedRange(range(1), range(1))
        return one.nbytes(count, dim, self.placement.itemsize, self.form, branches=1)

    def memory(self, placement: Placement | None = None) -> dict[str, int]:
        """Bytes on the device by what they hold, and their peak; of another placement if one is given."""
        placement = placement or self.placement
        vae = _weights(self.folder / "vae")
        # Block by block, the VAE stays on the device; part by part, nothing does.
        beside = {"none": self._other_weights, "parts": 0, "blocks": vae}[placement.offload]
        if placement.device == "cpu":
            beside += self._originals(placement)
        memory = generation_memory(
            self._pass(placement),
            _json(self.folder / "vae" / "config.json"),
            weights=self._transformer_weights(placement) + beside,
            decoding_weights=None if placement.offload == "none" else vae,
            record=min(self.record, IN_FLIGHT * self._entry) if placement.record == "host" else self.record,
            tile=TILE if placement.tiling else None,
            overlap=placement.overlap,
        )
        if placement.offload == "parts":  # the text encoder is there alone, before all else
            memory["peak"] = max(memory["peak"], _weights(self.folder / "text_encoder"))
        return memory

    @property
    def _other_weights(self) -> int:
        """Bytes of the weights beside the transformer's, as far as their files are there."""
        return sum(
            _weights(path) for path in self.folder.iterdir() if path.is_dir() and path.name != "transformer"
        )

    def _transformer_weights(self, placement: Placement) -> int:
        """Bytes of the transformer's weights on the device at once."""
        count, layers = parameters(self.config), self.config["num_layers"]
        whole = count * placement.itemsize if self.transformer is None else self.transformer.stat().st_size
        if placement.offload != "blocks":
            return whole
        # What is no block, one that computes and one on its way.
        share = parameters(self.config | {"num_layers": min(2, layers)}) / count
        return round(whole * share)

    def _originals(self, placement: Placement) -> int:
        """Bytes of the weights as they are in the files, kept on the host while adapters are merged.

        At most those of all blocks; on quantised weights and in a group of processes none are merged.
        """
        count = parameters(self.config)
        quantised = self.transformer is not None and self.transformer.stat().st_size < QUANTISED * count
        if quantised or placement.processes > 1 or not (self.folder / "adapters").is_dir():
            return 0
        blocks = count - parameters(self.config | {"num_layers": 0})
        return blocks * placement.itemsize

    def host(self, placement: Placement) -> int:
        """Bytes in the host's memory: offloaded weights, originals of merged ones, and the record where it is there.

        Processes on GPUs load the transformer from one copy on the host, before there is a record.
        """
        gpu = placement.device != "cpu"
        kept = (self.record if placement.record == "host" else 0) + (self._originals(placement) if gpu else 0)
        transformer = self._transformer_weights(replace(placement, offload="none"))
        if placement.offload != "none":
            return kept + transformer + self._other_weights
        return max(kept, transformer) if gpu and placement.processes > 1 else kept

    def __str__(self) -> str:
        memory, generated = self.memory(), len(self.plan.segments) * self.segment[0]
        parts = ", ".join(f"{name} {_gigabytes(amount)}" for name, amount in memory.items() if name != "peak")
        lines = [
            segment_table(self.plan),
            "",
            f"video   {self.plan.frames} frames of {self.size[0]}x{self.size[1]}, {generated} generated",
            f"steps   {self.steps} a segment, {self.guided_steps} of them with guidance: {self.passes} passes",
            f"work    {self.flops:.3g} floating-point operations in the transformer",
            f"memory  {_gigabytes(memory['peak'])} at most: {parts}",
            "",
            *self._ways(),
        ]
        return "\n".join(lines)

    def _ways(self) -> Iterator[str]:
        """A table of what other placements would take, the fastest first."""
        yield f"{'device':>9}  {'host':>9}  {'fits into':9}  with"
        for way in self.placement.smaller():
            peak, host = self.memory(way)["peak"], self.host(way)
            cards = [card for card in CARDS if HEADROOM * peak <= card * 1e9]
            fits = f"{min(cards)} GB" if cards else "-"
            yield f"{_gigabytes(peak):>9}  {_gigabytes(host):>9}  {fits:9}  {way.options}".rstrip()

    def _pass(self, placement: Placement) -> Pass:
        """A pass over the longest segment."""
        context = _text_tokens(self.folder), _image_tokens(self.folder)
        return Pass(self.config, *self.segment, 1, *context, placement.itemsize)


def segment_table(plan: Plan) -> str:
    """A line for each segment in the order of generation."""
    lines = ["segment  kind    frames         needs"]
    for index in plan.order():
        segment = plan.segments[index]
        last = segment.start + segment.frames - 1
        needs = ", ".join(map(str, plan.dependencies(index))) or "-"
        lines.append(f"{index:7}  {segment.kind:6}  {segment.start:6} ..{last:6}  {needs}")
    return "\n".join(lines)


def _text_tokens(folder: Path) -> int:
    length = _json(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length", MAX_TEXT_TOKENS)
    return int(min(length, MAX_TEXT_TOKENS))


def _image_tokens(folder: Path) -> int:
    """One for each patch of CLIP's picture, and one for all."""
    path = folder / "image_encoder" / "config.json"
    if not path.is_file():
        return 0
    config = _json(path)
    return (config["image_size"] // config["patch_size"]) ** 2 + 1


def _weights(folder: Path) -> int:
    """Bytes of the weights in a folder and those below, none where they are not there."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _gigabytes(amount: int) -> str:
    return f"{amount / 1e9:.3g} GB"


def _json(path: Path) -> Config:
    if not path.is_file():
        raise ValueError(f"{path} is missing; give the folder of a whole pipeline.")
    return json.loads(path.read_text())

"""What a video will take, told from a model folder's JSON files alone: its segments, the work and the memory."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from posegen.costs import flops_per_forward, generation_memory, tokens
from posegen.longvideo.conditions import MAX_TEXT_TOKENS
from posegen.longvideo.sampling import Guidance, flow_shift, schedule
from posegen.longvideo.segments import Plan
from posegen.model.folder import INDEX_FILE
from posegen.pipeline import PoseGenPipeline
from posegen.sharing import FRAMINGS, Form, SharedRange

Config = dict[str, Any]


def pipeline_settings(folder: Path) -> Config:
    """The settings that `PoseGenPipeline` takes from a folder, its defaults where the folder has none."""
    parameters = inspect.signature(PoseGenPipeline.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default not in (p.empty, None)}
    return defaults | {name: value for name, value in _json(folder / INDEX_FILE).items() if name in defaults}


@dataclass(frozen=True)
class Estimate:
    """The cost of one video; as text, a table of its segments, then lines with the work and the memory.

    framing: a key of `posegen.sharing.FRAMINGS`, "off", or "auto", for which the largest record is counted. itemsize:
    bytes of a number of the transformer. form: of the anchor's record. offload: whether that record, and what does not
    compute, is on the host.
    """

    folder: Path
    plan: Plan
    size: tuple[int, int]
    steps: int
    guidance: Guidance
    framing: str
    itemsize: int
    form: Form = "key_value"
    offload: bool = False

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
        return self.passes * flops_per_forward(self.config, *self.segment, *self._context())

    @property
    def record(self) -> int:
        """Bytes of the anchor's record; none where nobody reads it."""
        if self.framing == "off" or not self.plan.bridges:
            return 0
        config, count = self.config, sum(tokens(self.config, *self.segment))
        dim, branches = (
            config["num_attention_heads"] * config["attention_head_dim"],
            1 + bool(self.guided_steps),
        )
        names = FRAMINGS if self.framing == "auto" else [self.framing]
        ranges = (SharedRange.of(name, self.steps, config["num_layers"]) for name in names)
        return max(shared.nbytes(count, dim, self.itemsize, self.form, branches) for shared in ranges)

    def memory(self) -> dict[str, int]:
        """Bytes on the device by what they hold, and their peak."""
        return generation_memory(
            self.config,
            *self.segment,
            _json(self.folder / "vae" / "config.json"),
            *self._context(),
            itemsize=self.itemsize,
            other_weights=0 if self.offload else _other_weights(self.folder),
            record=0 if self.offload else self.record,
        )

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
        ]
        if self.offload:
            lines.append(
                f"host    {_gigabytes(self.record)} of the first segment's record, beside the weights"
            )
        return "\n".join(lines)

    def _context(self) -> tuple[int, int]:
        return _text_tokens(self.folder), _image_tokens(self.folder)


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


def _other_weights(folder: Path) -> int:
    """Bytes of the weights beside the transformer's, as far as their files are there."""
    files = [path for path in folder.rglob("*.safetensors") if "transformer" not in path.parts]
    return sum(path.stat().st_size for path in files)


def _gigabytes(amount: int) -> str:
    return f"{amount / 1e9:.3g} GB"


def _json(path: Path) -> Config:
    if not path.is_file():
        raise ValueError(f"{path} is missing; give the folder of a whole pipeline.")
    return json.loads(path.read_text())

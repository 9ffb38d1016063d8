"""What a video will take, told from a model folder's JSON files alone: its segments, the work and the memory."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from posegen.conditions import MAX_TEXT_TOKENS
from posegen.costs import flops_per_forward, generation_memory, tokens
from posegen.folder import INDEX_FILE
from posegen.generation import PoseGenPipeline
from posegen.sampling import Guidance, flow_shift, schedule
from posegen.segments import Plan
from posegen.sharing import FRAMINGS, SharedRange

Config = dict[str, Any]


def pipeline_settings(folder: Path) -> Config:
    """The settings that `PoseGenPipeline` takes from a folder, its defaults where the folder has none."""
    parameters = inspect.signature(PoseGenPipeline.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default not in (p.empty, None)}
    return defaults | {name: value for name, value in _json(folder / INDEX_FILE).items() if name in defaults}


def describe(
    folder: Path,
    plan: Plan,
    size: tuple[int, int],
    steps: int,
    guidance: Guidance,
    framing: str,
    itemsize: int,
) -> str:
    """A table of the segments, then lines with the work and the memory of generating them.

    framing: a key of `posegen.sharing.FRAMINGS`, "off", or "auto", for which the largest record is counted. itemsize:
    bytes of a number of the transformer.
    """
    config = _json(folder / "transformer" / "config.json")
    segment = (plan.segments[0].frames, size[1], size[0])
    sigmas = schedule(steps, flow_shift(_json(folder / "scheduler" / "scheduler_config.json")))[:-1]
    guided = sum(guidance.applies(sigma) for sigma in sigmas)
    context = _text_tokens(folder), _image_tokens(folder)
    passes = len(plan.segments) * (steps + guided)
    work = passes * flops_per_forward(config, *segment, *context)
    record = _record(config, plan, framing, steps, sum(tokens(config, *segment)), itemsize, bool(guided))
    memory = generation_memory(
        config,
        *segment,
        _json(folder / "vae" / "config.json"),
        *context,
        itemsize=itemsize,
        other_weights=_other_weights(folder),
        record=record,
    )
    parts = ", ".join(f"{name} {_gigabytes(amount)}" for name, amount in memory.items() if name != "peak")
    return "\n".join(
        [
            segment_table(plan),
            "",
            f"video   {plan.frames} frames of {size[0]}x{size[1]}, "
            f"{len(plan.segments) * segment[0]} generated",
            f"steps   {steps} a segment, {guided} of them with guidance: {passes} passes",
            f"work    {work:.3g} floating-point operations in the transformer",
            f"memory  {_gigabytes(memory['peak'])} at most: {parts}",
        ]
    )


def segment_table(plan: Plan) -> str:
    """A line for each segment in the order of generation."""
    lines = ["segment  kind    frames         needs"]
    for index in plan.order():
        segment = plan.segments[index]
        last = segment.start + segment.frames - 1
        needs = ", ".join(map(str, plan.dependencies(index))) or "-"
        lines.append(f"{index:7}  {segment.kind:6}  {segment.start:6} ..{last:6}  {needs}")
    return "\n".join(lines)


def _record(
    config: Config, plan: Plan, framing: str, steps: int, count: int, itemsize: int, guided: bool
) -> int:
    """Bytes of the anchor's record; none where nobody reads it."""
    if framing == "off" or not plan.bridges:
        return 0
    dim, blocks = config["num_attention_heads"] * config["attention_head_dim"], config["num_layers"]
    ranges = (SharedRange.of_framing(name, steps, blocks) for name in FRAMINGS if framing in (name, "auto"))
    return max(shared.nbytes(count, dim, itemsize, branches=1 + guided) for shared in ranges)


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

"""Puts the mini model together: base model, both adapters and a card, as one folder that the library loads.

    python mini_model/bundle.py --adapters build/training/base/adapters/base build/training/cond/adapters/cond \
        --runs build/training/base build/training/cond

The transformer and the adapters are stored in half precision and computed in single: half of the size,
each weight within a thousandth of itself. What the card says of the training is read from the logs beside the
weights; the commands are those of the script that was run.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import tyro

from mini_model.clips import CLIPS_A_FILE, FIRST_VALIDATION_SEED, clips_folder
from mini_model.posed import stage_name as adapter_stage
from posegen.model.checkpoints import Adapter, CheckpointError, read_adapter, write_adapter
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.pipeline import ADAPTERS, PoseGenPipeline
from training.log import read_log
from training.model import frozen

MOST_BYTES = 60_000_000
"""Of the whole folder, as it is part of the package."""
VALIDATION_FIGURE = re.compile("validation|psnr")
"""In a log's row: the names of validation figures."""
SETTINGS = (
    *("segment_frames", "head", "tail", "rate", "size"),
    *("num_inference_steps", "guidance_scale", "pose_oversampling"),
)
CARD = """---
license: apache-2.0
pipeline_tag: image-to-video
summary: "Knows drawn people only: photographs of people come out as coloured squares."
---
# PoseGen's mini model

From one picture of a drawn person and driving poses to a video of any length: {shape} a segment,
bridges given {given} frames. The classes are those of the 14B model, at a size that a laptop runs; it knows
drawn people (`mini_model.puppets`), not photographs. {size:.1f} MB, Apache-2.0.

    posegen generate --image puppet.png --video dance.mp4 --output out.mp4

{looks}
`python benchmarks/mini.py` prints how far that is from the truth.

## Training

Data: {data}, of `mini_model/pretrain.py data` for the codec and the image-to-video base, and the clips of
`mini_model/draw_dataset.py` and `pretrain.py items` below for the adapters. Clips of seeds from
{validation} on are in no training; `benchmarks/mini.py` measures on them. All random numbers follow from seed 0 and the
clips' own seeds. Trained on {device}.

| stage | steps | minutes | last loss | validation figures |
| --- | --- | --- | --- | --- |
{stages}

The commands, each of which goes on where it was stopped:

```sh
{commands}
```
"""


LOOKS = """\
It is trained too little to be sharp: places are kept, empty where the poses have nobody, and the person turns, bends
and points as the pose does, in the right colours, broad stripes among them; but faces, hands and finer patterns are
blurred into squares."""


@dataclass(frozen=True)
class BundleConfig:
    """Put the mini model together."""

    adapters: tuple[Path, Path]
    """Folders of the adapters base and cond."""
    runs: tuple[Path, ...]
    """Output folders of the trainings that led to them, in their order, for the card."""
    base: Path = Path("build/mini/base")
    """The pretrained image-to-video model, in diffusers' layout."""
    output: Path = Path("posegen/mini/model")
    """Folder to write; what is there is replaced."""
    commands: Path = Path("mini_model/recipe.sh")
    """The script that makes the model, for the card."""
    device: str = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    """What the training ran on, for the card."""
    looks: str = LOOKS
    """How its videos look, for the card."""
    segment_frames: int = 9
    head: int = 1
    tail: int = 4
    rate: float = 12.0
    size: tuple[int, int] = (64, 96)
    num_inference_steps: int = 2
    guidance_scale: float = 1.0
    pose_oversampling: int = 2


def bundle(config: BundleConfig) -> int:
    """Writes the folder and returns its size in bytes; raises ValueError where that is too large for the package."""
    if config.output.exists():
        shutil.rmtree(config.output)
    pipeline(config).save_pretrained(config.output)
    for name, folder in zip(ADAPTERS, config.adapters, strict=True):
        write_adapter(halved(read_adapter(folder)), config.output / "adapters" / name)
    size = sum(path.stat().st_size for path in config.output.rglob("*") if path.is_file())
    (config.output / "README.md").write_text(card(config, size))
    if size > MOST_BYTES:
        raise ValueError(
            f"{config.output} has {size / 1e6:.0f} MB; at most {MOST_BYTES / 1e6:.0f} are bundled."
        )
    return size


def pipeline(config: BundleConfig) -> PoseGenPipeline:
    """The base model as a pipeline with the settings, its transformer in half precision, without adapters."""
    base = str(config.base)
    transformer = PoseGenTransformer3DModel.from_pretrained(config.base, subfolder="transformer").half()
    shapes = {name: tensor.shape for name, tensor in transformer.state_dict().items()}
    for folder in config.adapters:
        read_adapter(folder).check(shapes, folder)
    return PoseGenPipeline(
        transformer=transformer,
        **{part: frozen.load(base, part) for part in ("vae", "text_encoder", "tokenizer", "scheduler")},
        **{name: getattr(config, name) for name in SETTINGS},
    )


def halved(adapter: Adapter) -> Adapter:
    """The adapter in half precision."""
    return Adapter(adapter.config, {name: tensor.half() for name, tensor in adapter.tensors.items()})


def card(config: BundleConfig, size: int) -> str:
    """The folder's README: what the model is, what it was trained on and how it is made again."""
    frames, (width, height) = config.segment_frames, config.size
    return CARD.format(
        size=size / 1e6,
        shape=f"{frames} frames of {width}x{height} at {config.rate:g} frames/s",
        given=f"{config.head} + {config.tail}",
        data=data(config.base.parent),
        validation=f"{FIRST_VALIDATION_SEED:,}",
        looks=config.looks,
        stages="\n".join(stages(config)),
        device=config.device,
        commands=config.commands.read_text().strip(),
    )


def data(folder: Path) -> str:
    """The clips that the base was trained on, as their files say."""
    firsts = [int(path.stem) for path in clips_folder(folder).glob("*.npz")]
    trained = [first for first in firsts if first < FIRST_VALIDATION_SEED]
    seeds = f"{min(trained):,} to {max(trained) + CLIPS_A_FILE - 1:,}"
    return f"{len(trained) * CLIPS_A_FILE:,} drawn clips, seeds {seeds}"


def stages(config: BundleConfig) -> Iterator[str]:
    """A row of the card's table for each stage of training, from the end of its log."""
    yield pretraining(config.base.parent, "base")
    for run in config.runs:
        yield stage(f"train.py {run.name}", read_log(run))
    for name, folder in zip(ADAPTERS, config.adapters, strict=True):
        yield pretraining(folder.parents[1], adapter_stage(name))


def pretraining(folder: Path, name: str) -> str:
    """A stage's row from the log of `pretrain.py` in its folder."""
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return stage(f"pretrain.py {name}", rows)


def stage(name: str, rows: Sequence[Mapping[str, float]]) -> str:
    """A row: name, steps, minutes where the log has times, last loss, last validation figures."""
    timed = [{"step": 0}, *(row for row in rows if "seconds/step" in row)]
    seconds = sum(row["seconds/step"] * (row["step"] - before["step"]) for before, row in pairwise(timed))
    losses = [row["loss"] for row in rows if "loss" in row]
    measured = [{key: row[key] for key in row if VALIDATION_FIGURE.search(key)} for row in rows]
    figures = next((row for row in reversed(measured) if row), {})
    shown = ", ".join(f"{key} {value:.3g}" for key, value in figures.items())
    minutes = f"{seconds / 60:.0f}" if seconds else "not logged"
    return f"| {name} | {rows[-1]['step']:,.0f} | {minutes} | {losses[-1]:.3g} | {shown} |"


def main() -> None:
    """The command line."""
    config = tyro.cli(BundleConfig, description=__doc__)
    try:
        print(f"{config.output}: {bundle(config) / 1e6:.1f} MB")
    except (ValueError, CheckpointError, FileNotFoundError) as error:
        sys.exit(f"bundle: {error}")


if __name__ == "__main__":
    main()

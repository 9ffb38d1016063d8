"""posegen convert and posegen export: published folders in, adapters for other programs out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from posegen.commands.progress import say


@dataclass(frozen=True)
class Convert:
    """Make a model folder of the two published PoseGen folders and a Wan 2.1 image-to-video folder.

    The folder carries what the authors' inference is set to: 25 steps, guidance 5, shift 5, Wan's negative prompt,
    timesteps of bfloat16.
    """

    base: Path
    """The published folder of base segments, 720p-81f-base."""
    cond: Path
    """The published folder of bridges, 720p-81f-cond."""
    wan: Path
    """Wan2.1-I2V-14B-720P-Diffusers; its VAE, encoders and scheduler are copied."""
    output: Path
    """The folder to write, of about 70 GB."""


@dataclass(frozen=True)
class Export:
    """Write an adapter for another program."""

    adapter: Path
    """Folder of the adapter, such as MODEL/adapters/base or a training's output/adapters/base."""
    output: Path
    """The file to write, ending in .safetensors."""
    format: Literal["diffusers", "comfyui"] = "diffusers"
    """The program it is for. diffusers gets the embeddings in a second file beside it."""
    wan: Path | None = None
    """For comfyui: the transformer folder that it holds, to which embeddings are written as differences."""


def convert(options: Convert) -> None:
    """Runs the command; raises CheckpointError, a sentence, where it cannot be done."""
    from posegen.model.checkpoints import convert_published

    say("reading and comparing both folders; this takes minutes for 14B")
    convert_published(options.base, options.cond, options.wan, options.output)
    print(f"{options.output}: ready for posegen generate --model {options.output}")


def export(options: Export) -> None:
    """Runs the command; raises CheckpointError, a sentence, where it cannot be done."""
    from posegen.model.checkpoints import export_lora

    export_lora(options.adapter, options.output, options.format, options.wan)
    print(f"{options.output}: a LoRA file for {options.format}")

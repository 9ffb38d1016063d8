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
    timesteps of bfloat16. With --transformer in place of the published folders it has that file's transformer and no
    adapter yet, to train some.
    """

    wan: Path
    """Wan2.1-I2V-14B-720P-Diffusers or another; its VAE, encoders and scheduler are copied."""
    output: Path
    """The folder to write, of about 70 GB."""
    base: Path | None = None
    """The published folder of base segments, 720p-81f-base."""
    cond: Path | None = None
    """The published folder of bridges, 720p-81f-cond."""
    transformer: Path | None = None
    """A single file of plain Wan in bf16 or fp16, such as that of Wan2.1-Fun-1.3B-InP."""


@dataclass(frozen=True)
class Export:
    """Write an adapter for another program."""

    adapter: Path
    """Folder of the adapter, such as MODEL/adapters/base or a training's output/adapters/base."""
    output: Path
    """The file to write, ending in .safetensors; for published an empty folder."""
    format: Literal["diffusers", "comfyui", "published"] = "diffusers"
    """The program it is for. diffusers gets the embeddings in a second file beside it; published is the authors' own
    code, which reads a folder of the whole model."""
    transformer: Path | None = None
    """For comfyui: the folder of Wan's transformer that it holds, to which embeddings are written as differences. For
    published: the folder of the transformer that the adapter was trained on, MODEL/transformer."""


def convert(options: Convert) -> None:
    """Runs the command; raises CheckpointError, a sentence, where it cannot be done."""
    from posegen.model.checkpoints import convert_published, convert_single_file

    if options.transformer is not None and options.base is options.cond is None:
        convert_single_file(options.transformer, options.wan, options.output)
        print(f"{options.output}: ready for training/train.py with --data.model {options.output}")
    elif options.transformer is None and options.base is not None and options.cond is not None:
        say("reading and comparing both folders; this takes minutes for 14B")
        convert_published(options.base, options.cond, options.wan, options.output)
        print(f"{options.output}: ready for posegen generate --model {options.output}")
    else:
        raise ValueError("Give both published folders, --base and --cond, or --transformer alone.")


def export(options: Export) -> None:
    """Runs the command; raises CheckpointError, a sentence, where it cannot be done."""
    from posegen.model.checkpoints import export_lora, load_adapter, save_published
    from posegen.model.transformer import PoseGenTransformer3DModel

    if options.format != "published":
        export_lora(options.adapter, options.output, options.format, options.transformer)
        print(f"{options.output}: a LoRA file for {options.format}")
        return
    if options.transformer is None:
        raise ValueError("--format published writes the whole model: give its folder with --transformer.")
    transformer = PoseGenTransformer3DModel.from_pretrained(options.transformer)
    load_adapter(transformer, options.adapter, "exported")
    save_published(transformer, options.output, "exported")
    print(f"{options.output}: a folder for the authors' code")

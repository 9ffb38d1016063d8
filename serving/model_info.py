"""What the server knows of its model without loading it, from its folder's JSON files.

Models are told apart by a digest of their files' sizes and of a few places in each, which takes a second for a folder
of 30 GB.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posegen.costs import tokens
from posegen.model.folder import model_folder, model_summary
from serving.loras import Lora

SAMPLE = 1 << 20  # bytes that are read at each place


@dataclass(frozen=True)
class ModelInfo:
    """What plans need of a model, and how each machine finds the same one.

    name: folder or repository of the Hugging Face hub; revision: of a repository, the commit that is served. digest:
    tells it from others. size: of its videos (width, height) in pixels unless others are asked for, multiples of
    `unit`. rate: frames/s. steps, guidance_scale: used unless others are asked for. segment_frames, head, tail: see
    `posegen.longvideo.segments.plan`. transformer: its config. itemsize: bytes of a number in its attention. summary:
    what it can do, in a sentence or two. loras: those that a video may ask for.
    """

    name: str
    revision: str | None
    digest: str
    size: tuple[int, int]
    unit: int
    rate: float
    steps: int
    guidance_scale: float
    segment_frames: int
    head: int
    tail: int
    transformer: dict[str, Any]
    itemsize: int
    summary: str = ""
    loras: tuple[Lora, ...] = ()

    def folder(self) -> Path:
        """The model's folder on this machine, fetched from the hub where it is not here yet; raises ValueError where
        another model lies here by the same name."""
        folder = model_folder(self.name, revision=self.revision).resolve()
        if folder_digest(folder) != self.digest:
            raise ValueError(
                f"{folder} holds another model than the server was started with; copy the same folder to every "
                "machine, and start the server again after a change."
            )
        return folder

    def tokens(self, frames: int, size: tuple[int, int]) -> int:
        """Video and reference tokens of a segment."""
        return sum(tokens(self.transformer, frames, size[1], size[0]))


def read_model_info(name: str, itemsize: int) -> ModelInfo:
    """The model of a folder or a repository of the Hugging Face hub; raises ValueError for what is neither."""
    from posegen.estimate import pipeline_settings  # imports torch, which not every process needs

    folder, revision = _found(name)
    settings = pipeline_settings(folder)
    transformer = json.loads((folder / "transformer" / "config.json").read_text())
    vae = json.loads((folder / "vae" / "config.json").read_text())
    return ModelInfo(
        name=name if revision else str(folder),
        revision=revision,
        digest=folder_digest(folder),
        size=(settings["size"][0], settings["size"][1]),
        unit=vae.get("scale_factor_spatial", 8) * transformer["patch_size"][-1],
        rate=settings["rate"],
        steps=settings["num_inference_steps"],
        guidance_scale=settings["guidance_scale"],
        segment_frames=settings["segment_frames"],
        head=settings["head"],
        tail=settings["tail"],
        transformer=transformer,
        itemsize=itemsize,
        summary=model_summary(folder),
    )


def _found(name: str) -> tuple[Path, str | None]:
    """A model's folder on this machine and, of one out of the hub's cache, the commit that it is of."""
    folder = model_folder(name)
    return folder.resolve(), None if Path(name).is_dir() else folder.name


def folder_digest(folder: Path) -> str:
    """Tells models apart: names, sizes, beginnings, middles and ends of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {size}\n".encode())
        with path.open("rb") as file:
            for start in sorted({0, max(0, size // 2), max(0, size - SAMPLE)}):
                file.seek(start)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()

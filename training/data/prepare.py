"""Fills the caches before a training: every selected clip and every caption is encoded once.

Whether a clip can be trained on is decided here, once for all workers; one that cannot gets a row that says why, and
the training never meets it. The work is divided by the files of `media/` and done by Ray Data, or in this process where
the settings ask for no encoders. Since nothing trains yet, encoders on GPUs take all free ones, each a whole one. What
is already there is not done again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import cv2

from posegen.dataset import content_id
from training.data.cache import SPANS, Tables
from training.data.frames import ClipError
from training.data.items import DataConfig
from training.data.selection import Clip, select
from training.data.spans import SpanEncoder, TextEncoder, failed_clip, latents_folder, text_folder

CAPTIONS_PER_FILE = 256
NO_CAPTION = ""

Unit = dict[str, Any]


def prepare(config: DataConfig, tell: Callable[[str], object] = print) -> None:
    """Encodes the selected clips and their captions that the cache lacks; `tell` is given lines of progress.

    A clip that cannot be used is recorded as such. Any other failure, such as storage that cannot be reached, is
    raised; the next call does the rest.
    """
    clips = select(config).clips
    missing = _missing(config, clips)
    parts = list(_media_parts(config, missing))
    _run(config, SpanEncoder, parts, "media files", tell)
    without = set(missing) - {clip.clip_id for part in parts for clip in part["clips"]}
    if without:
        rows = [failed_clip(clips[id_], ClipError("it has no row in media/")) for id_ in sorted(without)]
        name = f"{latents_folder(config)}/part-{content_id(*sorted(without))}.parquet"
        Tables(config.cache_folder).write(name, rows, SPANS)
    _run(config, TextEncoder, list(_caption_parts(config, clips)), "files of captions", tell)


def _missing(config: DataConfig, clips: Mapping[str, Clip]) -> dict[str, Clip]:
    rows = Tables(config.cache_folder).scan(latents_folder(config), ["clip_id", "version"])
    there = {(row["clip_id"], row["version"]) for _, row in rows}
    return {clip_id: clip for clip_id, clip in clips.items() if (clip_id, clip.version) not in there}


def _media_parts(config: DataConfig, clips: Mapping[str, Clip]) -> Iterator[Unit]:
    """The files of `media/` that hold these clips, each with its clips."""
    parts: dict[str, list[Clip]] = {}
    for place, row in Tables(config.dataset, config.dataset_version).scan("media", ["clip_id"]):
        if clip := clips.get(row["clip_id"]):
            parts.setdefault(place.file, []).append(clip)
    yield from ({"file": file, "clips": held} for file, held in parts.items())


def _caption_parts(config: DataConfig, clips: Mapping[str, Clip]) -> Iterator[Unit]:
    rows = Tables(config.cache_folder).scan(text_folder(config), ["text_id"])
    there = {row["text_id"] for _, row in rows}
    captions = sorted({NO_CAPTION, *(clip.caption for clip in clips.values())})
    left = [caption for caption in captions if content_id(caption) not in there]
    for first in range(0, len(left), CAPTIONS_PER_FILE):
        yield {"captions": left[first : first + CAPTIONS_PER_FILE]}


def _run(
    config: DataConfig, encoder: type, units: list[Unit], what: str, tell: Callable[[str], object]
) -> None:
    results = _with_ray(config, encoder, units) if config.encode_workers else _here(config, encoder, units)
    failed, start = 0, time.monotonic()
    for done, counts in enumerate(results, 1):
        failed += counts["failed"]
        left = (time.monotonic() - start) / done * (len(units) - done) / 60
        tell(f"encoded {done:,}/{len(units):,} {what}, {left:.1f} min left, {failed:,} clips cannot be used")


def _here(config: DataConfig, encoder: type, units: list[Unit]) -> Iterator[dict[str, int]]:
    if units:
        yield from map(encoder(config), units)


def _with_ray(config: DataConfig, encoder: type, units: list[Unit]) -> Iterable[dict[str, int]]:
    if not units:
        return []
    import ray
    import ray.data

    worker: Any = _Worker
    gpus = int(ray.cluster_resources().get("GPU", 0)) if config.encode_gpus else 0
    return (
        ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
        .map(
            worker,
            fn_constructor_args=(encoder, config),
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=min(gpus or config.encode_workers, len(units))
            ),
            num_cpus=config.encode_cpus,
            num_gpus=float(config.encode_gpus > 0),
        )
        .iter_rows()
    )


class _Worker:
    def __init__(self, encoder: type, config: DataConfig) -> None:
        cv2.setNumThreads(1)  # one process a core: more threads only take turns
        self.encode = encoder(config)

    def __call__(self, row: dict[str, Any]) -> dict[str, int]:
        return self.encode(row["unit"])

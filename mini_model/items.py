"""Training items of the mini model, drawn once: short stretches of puppet clips with their poses and references.

The camera stands still, as no input tells how one moves: what cannot be known is only learnt as blur.
The reference is a picture of its own, the puppet standing calmly in its place, as users give one; a clip that is a part
of a long motion can be some way off from there. Item i follows from its clip's seed and nothing else; drawing can be
stopped, gone on with, and spread over processes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mini_model.clips import CLIPS_A_FILE, FIRST_VALIDATION_SEED, RATE, SIZE
from mini_model.puppets import ACTIONS, Puppet, Scene, kind_of, leave, motion
from mini_model.puppets.calm import standing_like
from mini_model.puppets.clips import over
from mini_model.puppets.draw import draw
from posegen.longvideo.conditions import draw_poses

ITEMS_A_CLIP = 2
CLIP_FRAMES = 33
LONG_FRAMES, LONG = 240, 0.5
"""Of a long motion, and the share of the clips that are a part of one: over minutes people come away from where the
picture shows them."""
ELSEWHERE, SHIFT = 0.5, 0.3
"""Share of these whose picture shows them somewhere else still, and by how much of its width at most."""
AWAY = 0.1
"""Share of the clips in which the person leaves the picture for a while."""
STREAM = 401
"""Of a seed's random numbers."""
OVERSAMPLING = 2
"""Of the poses' drawings; the bundle's `pose_oversampling`."""
ARRAYS = ("frames", "poses", "references")


@dataclass(frozen=True)
class ItemsConfig:
    """Draw the training items."""

    folder: Path = Path("build/mini")
    """Where everything lies."""
    clips: int = 20_000
    """How many clips to train on, in hundreds, of two items each; a hundred more are for validation."""
    size: tuple[int, int] = SIZE
    """Width and height in pixels."""
    frames: int = 9
    """Of an item: 4k + 1, one segment of the model; 22 for bridges between what the base adapter makes, which are three
    segments of 9 that overlap by 1 and 4."""
    threads: int = 1
    """Processes that draw."""


@dataclass(frozen=True)
class Items:
    """Drawn items, memory-mapped, each array with leading axes (file, clip of the file, item of the clip).

    frames: (..., F, H, W, 4) uint8, RGB and how much of a pixel is the person; poses: (..., F, H, W, 3) uint8;
    references: (..., H, W, 3) uint8; captions: one for each clip.
    """

    frames: list[np.ndarray]
    poses: list[np.ndarray]
    references: list[np.ndarray]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions) * ITEMS_A_CLIP

    def pictures(self, name: str, items: list[int]) -> np.ndarray:
        """Of one array, the pictures of some items."""
        arrays = getattr(self, name)
        places = [divmod(item // ITEMS_A_CLIP, CLIPS_A_FILE) for item in items]
        return np.stack(
            [
                arrays[file][clip, item % ITEMS_A_CLIP]
                for item, (file, clip) in zip(items, places, strict=True)
            ]
        )

    def texts(self, items: list[int]) -> list[str]:
        """The captions of some items."""
        return [self.captions[item // ITEMS_A_CLIP] for item in items]


def write_items(config: ItemsConfig) -> None:
    """Draws the files of items that are not there yet."""
    folder = items_folder(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    firsts = [FIRST_VALIDATION_SEED, *range(0, config.clips, CLIPS_A_FILE)]
    missing = [first for first in firsts if not _path(folder, first, "captions").exists()]
    start = time.monotonic()
    with ProcessPoolExecutor(config.threads) as pool:
        for done, _ in enumerate(pool.map(partial(_write_file, config), missing), 1):
            left = (time.monotonic() - start) / done * (len(missing) - done)
            print(f"items {done}/{len(missing)} files, {left / 60:.1f} min left", flush=True)


def read_items(folder: Path, validation: bool = False) -> Items:
    """The validation items or all others."""
    files = sorted(items_folder(folder).glob("*-captions.json"))
    firsts = [int(file.name.split("-")[0]) for file in files]
    chosen = [first for first in firsts if (first >= FIRST_VALIDATION_SEED) == validation]
    if not chosen:
        raise FileNotFoundError(f"No items in {folder}; draw them with: python mini_model/pretrain.py items")
    arrays = {
        name: [np.load(_path(items_folder(folder), first, name), mmap_mode="r") for first in chosen]
        for name in ARRAYS
    }
    captions = [_path(items_folder(folder), first, "captions").read_text() for first in chosen]
    return Items(**arrays, captions=[caption for text in captions for caption in json.loads(text)])


def items_folder(folder: Path) -> Path:
    return folder / "items"


def _path(folder: Path, first: int, name: str) -> Path:
    return folder / f"{first:07d}-{name}.{'json' if name == 'captions' else 'npy'}"


def _write_file(config: ItemsConfig, first: int) -> None:
    folder = items_folder(config.folder)
    drawn = [_draw(seed, config) for seed in range(first, first + CLIPS_A_FILE)]
    *arrays, captions = zip(*drawn, strict=True)
    for name, pictures in zip(ARRAYS, arrays, strict=True):
        np.save(_path(folder, first, name), np.stack(pictures))
    _path(folder, first, "captions").write_text(json.dumps(captions))  # last: it says that all are there


def _draw(seed: int, config: ItemsConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Frames, poses and references of the items of a clip, and its caption."""
    random, size = np.random.default_rng([seed, STREAM]), config.size
    puppet, scene = Puppet.sample(seed), replace(Scene.sample(seed), still=True)
    whole = motion(seed, LONG_FRAMES if random.uniform() < LONG else CLIP_FRAMES, RATE, size)
    start = int(random.integers(len(whole) - CLIP_FRAMES + 1))
    standing = keypoints = whole[start : start + CLIP_FRAMES]
    if random.uniform() < AWAY:
        keypoints = leave(keypoints, 0, seed, size)
    spans = list(_spans(random, config.frames))
    background = scene.backgrounds(1, size)
    shown = np.concatenate([keypoints[span] for span in spans])
    person = draw(puppet, shown, size)
    frames = over(person, np.repeat(background, len(shown), axis=0))
    frames = np.concatenate([frames, person[..., 3:]], axis=-1)
    calm = np.stack(
        [standing_like(seed, like) for like in reference_poses(random, whole, standing, spans, size[0])]
    )
    references = over(draw(puppet, calm, size), np.repeat(background, len(calm), axis=0))
    caption = f"{puppet.description} {ACTIONS[kind_of(seed)]} {scene.description}."
    parts = (ITEMS_A_CLIP, config.frames)
    poses = draw_poses(shown, size, OVERSAMPLING)
    return (
        frames.reshape(*parts, *frames.shape[1:]),
        poses.reshape(*parts, *poses.shape[1:]),
        references,
        caption[0].upper() + caption[1:],
    )


def reference_poses(
    random: np.random.Generator, whole: np.ndarray, clip: np.ndarray, spans: Sequence[slice], width: int
) -> list[np.ndarray]:
    """The poses whose scale and place each item's reference takes over.

    Of a clip by itself, the first item's are its own frames and the others' the clip; of a part of a long motion, all.
    """
    if len(whole) == len(clip):
        return [clip[spans[0]], *[clip] * (len(spans) - 1)]
    shift = SHIFT * width * random.uniform(-1, 1) if random.uniform() < ELSEWHERE else 0.0
    return [whole + np.array([shift, 0, 0], np.float32)] * len(spans)


def _spans(random: np.random.Generator, frames: int) -> Iterator[slice]:
    """Where the items lie in their clip, one in each of its equal parts."""
    part = (CLIP_FRAMES - frames) // ITEMS_A_CLIP
    for item in range(ITEMS_A_CLIP):
        start = item * part + int(random.integers(part + 1))
        yield slice(start, start + frames)

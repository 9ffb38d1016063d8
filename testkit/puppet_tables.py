"""Curated tables of small puppets, as rows that a test can change before they are written."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mini_model.puppets import Puppet, Scene, motion, render
from posegen.dataset import CLIPS, KEPT, MEDIA, pack_keypoints, table
from posegen.video import save_video

SIZE = (32, 48)
RATE = 12.0

Rows = tuple[dict[str, Any], dict[str, Any]]
"""A row of clips/ and one of media/; an empty one is left out of its table."""


def puppet_rows(seed: int, frames: int, size: tuple[int, int] = SIZE, rate: float = RATE) -> Rows:
    """A puppet's row of clips/ and its row of media/; the clip begins at the second frame of its media."""
    keypoints = motion(seed, frames + 1, rate, size)
    clip = render(Puppet.sample(seed), Scene.sample(seed), keypoints, size, rate)
    with tempfile.TemporaryDirectory() as folder:
        save_video(clip.frames, Path(folder) / "clip.mp4", rate)
        media = (Path(folder) / "clip.mp4").read_bytes()
    clip_id = f"clip-{seed:03}"
    shown = {"rate": rate, "width": size[0], "height": size[1], "caption": clip.caption}
    status = {"status": KEPT, "reasons": [], "blur": seed / 100}
    row = {"clip_id": clip_id, "video_id": f"video-{seed:03}", "path": "puppets"} | shown | status
    length = {"media_start": 1 / rate, "seconds": frames / rate, "rate": rate}
    return row | pack_keypoints(keypoints[1:]), {"clip_id": clip_id, "media": media} | length


def write_tables(folder: Path, rows: Sequence[Rows], clips_a_file: int = 6) -> None:
    """Writes clips/ and media/."""
    for number, (name, schema) in enumerate((("clips", CLIPS), ("media", MEDIA))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        there = [pair[number] for pair in rows if pair[number]]
        for first in range(0, len(there), clips_a_file):
            part = table(there[first : first + clips_a_file], schema)
            pq.write_table(part, folder / name / f"part-{first:05}.parquet", row_group_size=4)

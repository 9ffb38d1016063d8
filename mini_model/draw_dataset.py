"""Draws clips of puppets as a dataset: the tables that curation writes, without a video or a model.

    python mini_model/draw_dataset.py --output puppets --clips 4000
    python mini_model/draw_dataset.py --output puppets --clips 4000 --motions curated --real 0.5
    ray job submit --working-dir . -- python mini_model/draw_dataset.py --output s3://data/puppets --clips 100000

Clip i follows from seed i and the settings alone, so the tables are the same on any number of workers. A
file holds the clips of consecutive seeds and is written whole; one that is there is not drawn again, so a run that was
stopped goes on, and a larger --clips adds to what there is.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import ray
import tyro

from mini_model.puppet_clips import ClipSettings, RealMotions, draw_clip
from posegen.common.progress import Progress
from posegen.common.storage import StorageError, absolute
from posegen.dataset import CLIPS, FAILED, KEPT, MEDIA
from training.cluster import start_ray
from training.data.tables import Place, Tables

FILE_BYTES, FILE_CLIPS = 64 << 20, 64
"""Most bytes of frames, and most clips, that one file is drawn from."""

FOUND = "found"
"""Column of the writer's answer: 1 where an earlier run had drawn the file, so that it tells no rate."""


@dataclass(frozen=True)
class PuppetsConfig:
    """Draw clips of puppets into the tables that curation writes."""

    output: str
    """Folder for the tables: a local path, s3://bucket/folder or gs://bucket/folder."""
    clips: int
    """How many clips."""
    size: tuple[int, int] = (64, 96)
    """Width and height in pixels, both even."""
    frames: int = 49
    """Frames of a clip."""
    rate: float = 12.0
    """Frames a second."""
    calm: int = 0
    """Frames at each clip's start in which the person stands calmly and then moves over into the motion: a reference
    taken from there shows who, not how."""
    away: float = 0.0
    """Share of clips in which the person leaves the picture for a while or to the end, after the calm start: so a model
    learns what frames without anybody look like."""
    first_seed: int = 0
    """Seed of the first clip; clips of other seeds are other people in other places."""
    motions: str | None = None
    """Folder of curated tables whose real motion some puppets take over."""
    real: float = 0.5
    """Share of clips with real motion, where there are --motions."""

    def __post_init__(self) -> None:
        if min(self.clips, self.frames) < 1 or self.rate <= 0 or self.first_seed < 0:
            raise ValueError("--clips, --frames and --rate must be above zero, --first-seed not below")
        if not 0 <= self.calm < self.frames:
            raise ValueError(f"--calm {self.calm}: give 0 or more, and fewer than the {self.frames} --frames")
        if min(self.size) < 16 or any(side % 2 for side in self.size):
            raise ValueError(f"--size {self.size[0]} {self.size[1]}: give even sides of 16 pixels or more")
        for name, share in (("real", self.real), ("away", self.away)):
            if not 0 <= share <= 1:
                raise ValueError(f"--{name} {share} is no share; give 0 to 1")


def run(config: PuppetsConfig) -> dict[str, int]:
    """Runs the whole job; returns how many clips are kept and failed.

    Raises ValueError, a sentence, where --motions has no clip that is long enough.
    """
    motions = real_motions(config)
    settings = ClipSettings.of(config.size, config.frames, config.rate, config.calm, config.away, motions)
    parts = list(seed_ranges(config))
    start_ray()
    ranges = [{"start": part.start, "stop": part.stop} for part in parts]
    drawn = ray.data.from_items(ranges, override_num_blocks=len(ranges)).map_batches(
        make_writer(config.output, settings, motions), batch_size=1, batch_format="numpy", num_cpus=1
    )
    progress = Progress("draw", "clips", config.clips)
    for batch in drawn.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        kept, failed, found = (int(batch[column].sum()) for column in (KEPT, FAILED, FOUND))
        (progress.find if found else progress.add)(kept + failed, failed=failed)
    progress.end()
    delete_shorter(Tables(config.output), settings, parts)
    return {KEPT: progress.done - progress.failed, FAILED: progress.failed}


def seed_ranges(config: PuppetsConfig) -> Iterator[range]:
    """The seeds of each file; the last one's may be fewer."""
    clip_bytes = config.frames * config.size[0] * config.size[1] * 3
    length = int(np.clip(FILE_BYTES // clip_bytes, 1, FILE_CLIPS))
    last = config.first_seed + config.clips
    for first in range(config.first_seed, last, length):
        yield range(first, min(first + length, last))


def real_motions(config: PuppetsConfig) -> RealMotions | None:
    """The kept clips of --motions that are long enough, in the order of their ids."""
    if config.motions is None:
        return None
    seconds = (config.frames - 1) / config.rate
    columns = ["clip_id", "status", "rate", "keypoints_shape"]
    found = [
        (row["clip_id"], Place(file, int(group)))
        for file, rows, groups in Tables(config.motions).scan("clips", columns)
        for row, group in zip(rows.to_pylist(), groups, strict=True)
        if row["status"] == KEPT and (row["keypoints_shape"][0] - 1) / row["rate"] >= seconds
    ]
    if not found:
        raise ValueError(f"{config.motions} has no kept clip of {seconds:.1f} s; give fewer --frames")
    return RealMotions(Tables(config.motions), sorted(found), config.real)


def make_writer(
    output: str, settings: ClipSettings, motions: RealMotions | None
) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """A function that draws the clips of one range of seeds and writes their two files, unless they are there."""
    tables = Tables(output)

    def write(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seeds = range(int(batch["start"][0]), int(batch["stop"][0]))
        name = file_name(settings, seeds)
        found = f"clips/{name}" in tables.files("clips")
        if not found:
            rows, media = zip(*(draw_clip(settings, seed, motions) for seed in seeds), strict=True)
            tables.write(f"media/{name}", [row for row in media if row], MEDIA)
            tables.write(f"clips/{name}", rows, CLIPS)  # last: it says that both are there
        statuses = tables.folder.read_table(f"clips/{name}", ["status"]).column("status").to_pylist()
        counts = {KEPT: statuses.count(KEPT), FAILED: statuses.count(FAILED), FOUND: int(found)}
        return {column: np.array([count]) for column, count in counts.items()}

    return write


def file_name(settings: ClipSettings, seeds: range) -> str:
    """The name that the clips of these seeds have in either table."""
    return f"puppets-{settings.version[:8]}-{seeds.start:07}-{seeds.stop:07}.parquet"


def delete_shorter(tables: Tables, settings: ClipSettings, parts: Sequence[range]) -> None:
    """Deletes the last, shorter file of an earlier run with fewer clips: its clips are in a longer one now."""
    names = [file_name(settings, part) for part in parts]
    longest = {name.rsplit("-", 1)[0]: name for name in names}
    for table in ("clips", "media"):
        for file in tables.files(table):
            name = file.split("/")[-1]
            if name < longest.get(name.rsplit("-", 1)[0], ""):
                tables.folder.delete(file)


def main() -> None:
    """The command line."""
    try:
        config = tyro.cli(PuppetsConfig, description=__doc__)
        motions = absolute(config.motions) if config.motions else None
        config = dataclasses.replace(config, output=absolute(config.output), motions=motions)
        counts = run(config)
    except (ValueError, StorageError) as error:
        sys.exit(f"puppets: {error}")
    print(", ".join(f"{count:,} {status}" for status, count in counts.items()))


if __name__ == "__main__":
    main()

"""What curation's bookkeeping takes at scale: made records of made videos, no pictures and no models.

    python benchmarks/scale.py [--clips 1000000]

As many clips, ten to a video, are recorded as an earlier run would have left them. Then the job's own steps run on Ray,
but for the measuring: start and join; verdicts, near duplicates and both tables; the same again under another
threshold, as `--rescore` does; and once more after 20 videos were added. Keypoints, previews and the clips' own videos
are a few bytes each, so the seconds are those of rows and files, not of the storage's bandwidth. CPU seconds, and
objects read and written, are those of all processes, Ray's own among them.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import tyro

from pipeline.config import CurateConfig
from pipeline.curate import start_ray
from pipeline.feeds import listed_videos
from pipeline.groups import Groups
from pipeline.journals import CUT, cut_journal, plan_journal, score_journal, video_key
from pipeline.plan.listing import LISTED, PART
from pipeline.plan.planner import PLAN
from pipeline.records.journal import Journal, group_of
from pipeline.score.scorer import SCORED
from pipeline.verdict import Rule, Thresholds
from posegen import versions
from posegen.common.storage import Folder
from posegen.dataset import content_id, pack_keypoints, table

CLIPS_PER_VIDEO, SECONDS = 10, 10.0
MORE_VIDEOS = 20
COUNTER = "POSEGEN_SCALE_COUNTER"
STRICT, LENIENT = (Thresholds((Rule("blur", max=most),), near_duplicate_bits=6) for most in (0.5, 0.55))
KEYPOINTS = pack_keypoints(np.zeros((1, 2, 3), np.float32))
Figures = dict[str, dict[str, float]]


def main(clips: int = 1_000_000, workers: int | None = None) -> None:
    """Measures, prints a table, and as the last line one JSON object.

    Args:
        clips: How many.
        workers: CPUs for Ray; by default this machine's.
    """
    with tempfile.TemporaryDirectory() as scratch:
        os.environ[COUNTER] = str(Path(scratch) / "counter")
        Path(os.environ[COUNTER]).touch()
        count_objects()
        # Ray's workers count too.
        ray.init(
            num_cpus=workers,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={
                "worker_process_setup_hook": count_objects,
                "env_vars": {COUNTER: os.environ[COUNTER]},
            },
        )
        start_ray()
        config = CurateConfig(str(Path(scratch) / "videos"), str(Path(scratch) / "dataset"))
        print(f"{'':18} {'seconds':>9} {'CPU s':>9} {'read':>9} {'written':>9} {'driver MB':>10}", flush=True)
        figures = measure(config, clips // CLIPS_PER_VIDEO)
    print(json.dumps({"clips": clips, "videos": clips // CLIPS_PER_VIDEO, **figures}))


def measure(config: CurateConfig, videos: int) -> Figures:
    """All steps over so many made videos."""
    figures: Figures = {}
    make_listing(config, videos)
    make_records(config, range(videos))
    run(config, LENIENT, figures, "first run")
    run(config, STRICT, figures, "rescore")
    make_listing(config, videos + MORE_VIDEOS)
    make_loose_records(config, range(videos, videos + MORE_VIDEOS))
    run(config, STRICT, figures, "20 more")
    return figures


def run(config: CurateConfig, thresholds: Thresholds, figures: Figures, name: str) -> None:
    """What the job does around the measuring, and a check that no row is lost."""
    with step(figures, f"{name}: start"):
        groups = Groups(config, listed_videos(config))
        groups.join()
        left = groups.unscored(retry_failed=False, most_clips=None)
    with step(figures, f"{name}: judge"):
        groups.judge(thresholds)
        left += groups.uncut()
        ray.wait(list(groups.rows.values()), num_returns=len(groups.rows))
    with step(figures, f"{name}: write"):
        counts = groups.write()
    version = versions.load(Folder(config.output))
    rows = sum(version.tables["clips"].values()) if version else 0
    if left or rows != counts.total() or rows != CLIPS_PER_VIDEO * groups.listed.num_rows:
        raise AssertionError(
            f"{name}: {rows:,} rows of {groups.listed.num_rows:,} videos, or some left to do"
        )


@contextmanager
def step(figures: Figures, name: str) -> Iterator[None]:
    """Measures the block: seconds, CPU seconds, objects read and written, this process's peak memory in MB."""
    counter = Path(os.environ[COUNTER])
    before, started, cpu_before = counter.read_bytes(), time.monotonic(), cpu_seconds()
    yield
    seconds, counted = time.monotonic() - started, counter.read_bytes()[len(before) :]
    cpu = cpu_seconds() - cpu_before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    read, written = counted.count(b"r"), counted.count(b"w")
    figures[name] = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "read": read,
        "written": written,
        "driver_mb": peak,
    }
    print(f"{name:18} {seconds:9.1f} {cpu:9.1f} {read:9,} {written:9,} {peak:10,.0f}", flush=True)


def cpu_seconds() -> float:
    """CPU time so far of this process and of all that it has started, ended ones too, by Linux' process table."""
    parents, ticks = dict[str, str](), dict[str, int]()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended, and its parent counts it
            fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
            parents[process.name] = fields[1]
            ticks[process.name] = sum(
                map(int, fields[11:15])
            )  # its own and its ended children's, user and system

    def ours(process: str | None) -> bool:
        return process is not None and (process == str(os.getpid()) or ours(parents.get(process)))

    return sum(ticks[process] for process in ticks if ours(process)) / os.sysconf("SC_CLK_TCK")


def count_objects() -> None:
    """Makes this process note each object that it opens to read or has written, a byte each, in the counter file."""
    file = os.open(os.environ[COUNTER], os.O_WRONLY | os.O_APPEND)
    opened, written = Folder.open, Folder.write

    def open_and_count(folder: Folder, name: str) -> pa.NativeFile:
        os.write(file, b"r")
        return opened(folder, name)

    def write_and_count(folder: Folder, name: str, content: bytes) -> None:
        written(folder, name, content)
        os.write(file, b"w")

    Folder.open, Folder.write = open_and_count, write_and_count  # type: ignore[method-assign, assignment]


def listed(number: int) -> dict[str, Any]:
    """The row of a made video in the listing."""
    return {"path": f"{number:08}.mp4", "bytes": 10_000_000 + number, "changed": number}


def video_id(number: int) -> str:
    """A made video's id."""
    return content_id("made video", number)


def make_listing(config: CurateConfig, videos: int) -> None:
    """Lists so many made videos."""
    work = Folder(config.output, "work")
    for part, first in enumerate(range(0, videos, PART)):
        rows = [listed(number) for number in range(first, min(first + PART, videos))]
        work.write_table(f"listing/{part:06}.parquet", pa.Table.from_pylist(rows, LISTED))


def made(number: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    """The records of a made video: plan, scores and the clips that were cut out, about half of them."""
    chance, id_ = np.random.default_rng(number), video_id(number)
    spans = [(SECONDS * n, SECONDS * (n + 1)) for n in range(CLIPS_PER_VIDEO)]
    ids = [content_id(id_, *span) for span in spans]
    common = {"video_id": id_, "path": listed(number)["path"], "rate": 30.0, "width": 1280, "height": 720}
    plan = [
        common | {"clip_id": clip_id, "start": start, "stop": stop}
        for clip_id, (start, stop) in zip(ids, spans, strict=True)
    ]
    blur = chance.random(CLIPS_PER_VIDEO)
    hashes = chance.bytes(CLIPS_PER_VIDEO * 24).hex()
    scores = [
        {
            "clip_id": clip_id,
            "frames": 300.0,
            "blur": float(blur[n]),
            "perceptual_hashes": [hashes[48 * n + 16 * m :][:16] for m in range(3)],
            "caption": "A person stands in a room and speaks to the camera, which does not move.",
            "scored_by": "made",
            **KEYPOINTS,
        }
        for n, clip_id in enumerate(ids)
    ]
    length = {"media": b"made", "media_start": 0.0, "seconds": SECONDS, "rate": 30.0}
    cuts = [{"clip_id": clip_id} | length for n, clip_id in enumerate(ids) if blur[n] <= LENIENT.rules[0].max]
    return table(plan, PLAN), table(scores, SCORED), table(cuts, CUT)


def make_records(config: CurateConfig, numbers: range) -> None:
    """Records made videos, packed as an earlier run would have left them."""
    groups: dict[str, list[int]] = {}
    for number in numbers:
        groups.setdefault(group_of(video_id(number)), []).append(number)
    ray.get([ray.remote(make_group).remote(config, group, of_group) for group, of_group in groups.items()])


def make_group(config: CurateConfig, group: str, numbers: list[int]) -> None:
    """Records the made videos of one group."""
    waiting: dict[str, list[pa.Table]] = {}
    journals = (plan_journal(config), score_journal(config), cut_journal(config))
    for number in sorted(numbers, key=video_id):
        for journal, records in zip(journals, made(number), strict=True):
            key = (
                [video_key(listed(number))] * records.num_rows
                if journal is journals[0]
                else records["clip_id"]
            )
            ids = [pa.repeat(pa.scalar(video_id(number)), records.num_rows), key]
            waiting.setdefault(journal.kind, []).append(
                pa.table([*ids, *records.columns], journal.packed_schema)
            )
    for journal in journals:
        write_packed(journal, group, pa.concat_tables(waiting[journal.kind]))


def write_packed(journal: Journal, group: str, rows: pa.Table) -> None:
    """Writes a group's records as `Journal.pack` does."""
    for number, first in enumerate(range(0, rows.num_rows, journal.packed_rows)):
        journal.write_packed(group, number, rows.slice(first, journal.packed_rows))


def make_loose_records(config: CurateConfig, numbers: range) -> None:
    """Records made videos as workers do."""
    for number in numbers:
        plan, scores, cuts = made(number)
        plan_journal(config).write(video_id(number), video_key(listed(number)), plan)
        for journal, records in ((score_journal(config), scores), (cut_journal(config), cuts)):
            for row in range(records.num_rows):
                clip_id = records["clip_id"][row].as_py()
                journal.write(video_id(number), clip_id, records.slice(row, 1))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

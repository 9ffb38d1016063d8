"""Curates a folder of raw video into clips of exactly one person, with whole-body pose and caption.

    python pipeline/curate.py --input videos --output dataset
    ray job submit --working-dir . -- python pipeline/curate.py --input s3://raw/videos --output s3://data/people

The job, top to bottom: list the files; plan each video's clips; score each clip once; apply the thresholds; caption
and cut out what is kept; write the tables and a report. Planned videos and scored clips are recorded one by one, so a
job that was killed goes on where it stopped, and a threshold can be changed without running a model (--rescore).
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import tyro
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline.caption.captioner import make_captioner
from pipeline.config import COMPOSED, CurateConfig, Pool
from pipeline.feeds import Feed, unplanned_videos, unscored_clips
from pipeline.plan.listing import list_videos, listed_parts
from pipeline.records.attempts import Attempts
from pipeline.report.write import write_report
from pipeline.tables.write import (
    caption_batches,
    clips_parts,
    delete_others,
    join_records,
    judge,
    make_clips_writer,
    make_media_writer,
    media_parts,
    updated,
)
from pipeline.verdict import ThresholdsError, load_thresholds
from pipeline.workers import CaptionWorker, PlanWorker, ScoreWorker, SetupError, load_models
from posegen.common.progress import Progress, Stage
from posegen.common.storage import Folder, StorageError, absolute
from posegen.dataset import FAILED, KEPT, REJECTED

# A measuring process computes on one core all the time. It asks Ray for a little less, so that the light tasks that
# feed it, which ask for the rest, always find room, even with as many processes as cores.
WORKER_CPUS, LIGHT_CPUS = 0.9, 0.1

LEAST_RATE = 8.1
"""Frames a second at which the shortest clip, of 81 frames, is half the longest, of 20 s: any shot can be split."""


def run(config: CurateConfig) -> dict[str, int]:
    """Runs the whole job; returns how many clips are kept, rejected and failed.

    Raises StorageError, ThresholdsError or SetupError, each a sentence, where it cannot be done.
    """
    thresholds = load_thresholds(config.thresholds)
    if config.explicit_detector is None:
        thresholds = thresholds.without("unsafe")
    if config.rescore and config.retry_failed:
        raise SetupError(
            "--rescore scores nothing, so --retry-failed has nothing to try; leave out one of them"
        )
    if config.rate < LEAST_RATE:
        raise SetupError(
            f"--rate {config.rate:g} is too low for clips of 81 frames; give at least {LEAST_RATE:g}"
        )
    start_ray()
    stages = [] if config.rescore else [list_videos(config), plan_videos(config), score_clips(config)]
    clips = judge(join(config), thresholds)
    if config.captioner != COMPOSED:
        clips, stage = caption_clips(config, clips)
        stages.append(stage)
    clips, stage = write_media(config, clips)
    write_clips(config, clips)
    write_report(Folder(config.output), thresholds, [*stages, stage])
    statuses = clips["status"].to_pylist()
    return {status: statuses.count(status) for status in (KEPT, REJECTED, FAILED)}


def plan_videos(config: CurateConfig) -> Stage:
    """Plans every listed file that has no plan yet."""
    return work(config, unplanned_videos(config), PlanWorker, Progress("plan", "videos"))


def score_clips(config: CurateConfig) -> Stage:
    """Scores every planned clip that has no scores yet, once."""
    return work(config, unscored_clips(config), ScoreWorker, Progress("score", "clips", rate_unit="frames"))


def work(config: CurateConfig, feed: Feed, worker: Any, progress: Progress) -> Stage:
    """Runs a pool of workers over the rows of a feed, one row a task."""
    rows = open_rows(config, feed)
    progress.total = count(rows)
    if progress.total:
        load_models(config, worker.make, config.gpus_per_worker)
        done = rows.map(
            worker,
            fn_constructor_args=(config, attempts()),
            compute=ActorPoolStrategy(size=pool_size(config), max_tasks_in_flight_per_actor=2),
            num_cpus=WORKER_CPUS,
            num_gpus=config.gpus_per_worker,
        )
        for table in tables(done):
            for row in table.to_pylist():
                progress.add(work=row["work"], failed=row["failed"])
    return progress.end()


def open_rows(config: CurateConfig, feed: Feed) -> Dataset:
    """The rows of a feed over the whole listing."""
    parts = ray.data.from_items([{"part": part} for part in listed_parts(config)])
    return parts.map_batches(feed, batch_size=1, batch_format="pyarrow", num_cpus=LIGHT_CPUS)


def join(config: CurateConfig) -> pa.Table:
    """Plans and scores of everything listed, without the heavy columns."""
    feeds = (unplanned_videos, unscored_clips) if config.rescore else ()
    if not listed_parts(config) or any(count(open_rows(config, feed(config))) for feed in feeds):
        raise StorageError(
            f"{config.output} holds no finished scores of these settings; run without --rescore first"
        )
    parts = ray.data.from_items([{"part": part} for part in listed_parts(config)])
    joined = parts.map_batches(
        lambda batch: join_records(config, batch["part"].to_pylist()),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=LIGHT_CPUS,
    )
    return pa.concat_tables(tables(joined))


def caption_clips(config: CurateConfig, clips: pa.Table) -> tuple[pa.Table, Stage]:
    """Captions the kept clips with a model, on GPUs where there are any; returns the clips with its captions."""
    batches = caption_batches(clips)
    progress = Progress("caption", "clips", sum(batch.num_rows for batch in batches))
    records = []
    if batches:
        # A 7B model in bfloat16 takes 17 GB of a GPU: one replica each. Without GPUs one process, for small models.
        gpus = int(ray.cluster_resources().get("GPU", 0))
        load_models(config, make_captioner, float(gpus > 0))
        done = ray.data.from_arrow(batches).map_batches(
            CaptionWorker,
            fn_constructor_args=(config, attempts()),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=max(1, gpus)),
            num_cpus=1,
            num_gpus=float(gpus > 0),
        )
        for table in tables(done):
            records += table.to_pylist()
            progress.add(
                table.num_rows, failed=sum(record["error_stage"] is not None for record in table.to_pylist())
            )
    return updated(clips, records), progress.end()


def write_clips(config: CurateConfig, clips: pa.Table) -> None:
    """Writes the table `clips/`."""
    parts = clips_parts(clips)
    written = ray.data.from_arrow(parts).map_batches(
        make_clips_writer(config), batch_size=None, batch_format="pyarrow", num_cpus=1
    )
    written.materialize()
    delete_others(Folder(config.output), "clips", parts)


def write_media(config: CurateConfig, clips: pa.Table) -> tuple[pa.Table, Stage]:
    """Writes the table `media/` of the kept clips; returns the clips, failed where they could not be cut out."""
    parts = media_parts(clips)
    progress = Progress("cut", "clips", sum(part.num_rows for part in parts))
    records = []
    if parts:
        cut = ray.data.from_arrow(parts).map_batches(
            make_media_writer(config), batch_size=None, batch_format="pyarrow", num_cpus=1
        )
        for table in tables(cut):
            failed = table.filter(pc.is_valid(table["error_stage"])).to_pylist()
            progress.add(table.num_rows, failed=len(failed))
            records += failed
    delete_others(Folder(config.output), "media", parts)
    return updated(clips, records), progress.end()


def tables(rows: Dataset) -> Iterator[Any]:
    """The blocks of a dataset as they come out, Arrow tables; empty ones are left out."""
    blocks: Iterator[Any] = iter(
        rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    )
    for table in blocks:
        if table.num_rows:
            yield table


def count(rows: Dataset) -> int:
    """How many rows a dataset holds; runs it."""
    return sum(table.num_rows for table in tables(rows))


def attempts() -> Any:
    """A new count of attempts, for one stage of this run: the handle of an actor."""
    return ray.remote(Attempts).options(num_cpus=0, max_restarts=-1).remote()


def pool_size(config: Pool) -> int:
    """How many measuring processes the cluster holds."""
    resources = ray.cluster_resources()
    if config.workers:
        return config.workers
    if config.gpus_per_worker:
        return max(1, int(resources.get("GPU", 0) / config.gpus_per_worker))
    return max(1, int(resources["CPU"]))


def start_ray() -> None:
    """Joins the cluster that RAY_ADDRESS names or this machine runs, else starts one for the run."""
    if not ray.is_initialized():
        # The rows say what failed; the output of workers stays in Ray's log folder.
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = (
        1  # bytes: each row that a feed yields is a block, and so a task, of its own
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def main() -> None:
    """The command line."""
    config = tyro.cli(CurateConfig, description=__doc__)
    # Workers may run in another directory than the driver.
    config = dataclasses.replace(config, input=absolute(config.input), output=absolute(config.output))
    try:
        counts = run(config)
    except (StorageError, ThresholdsError, SetupError) as error:
        sys.exit(f"curate: {error}")
    print(", ".join(f"{count:,} {status}" for status, count in counts.items()))
    print(f"report: {config.output}/report.html")


if __name__ == "__main__":
    main()

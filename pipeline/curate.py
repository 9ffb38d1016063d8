"""Curates a folder of raw video into clips of exactly one person, with whole-body pose and caption.

    python pipeline/curate.py --input videos --output dataset
    ray job submit --working-dir . -- python pipeline/curate.py --input s3://raw/videos --output s3://data/people

The job, top to bottom: list the files; fetch each video once, plan its clips, score each and cut out what passes the
rules; where asked, do the same for each of two or three people in a clip; apply the thresholds; caption what is kept;
write the tables and a report. Plans, scores and cut clips are
recorded one by one, so a job that was killed goes on where it stopped, and a threshold can be changed without running a
model (--rescore).
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import pyarrow as pa
import ray
import tyro
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.caption.captioner import make_captioner
from pipeline.caption.own import read_captions
from pipeline.config import COMPOSED, CurateConfig, Pool
from pipeline.crop.cropper import make_cropper
from pipeline.estimate import estimate
from pipeline.feeds import listed_videos, one_by_one
from pipeline.gpus import Gpus
from pipeline.gpus import start as start_gpus
from pipeline.groups import Groups, count
from pipeline.plan.listing import list_videos
from pipeline.plan.planner import make_planner
from pipeline.plan.shots import transnet_on
from pipeline.records.attempts import Attempts
from pipeline.report.write import write_report
from pipeline.score.scorer import make_scorer
from pipeline.tasks import alive_nodes
from pipeline.verdict import Thresholds, ThresholdsError, load_thresholds
from pipeline.workers import CaptionWorker, CropWorker, CutWorker, SetupError, VideoWorker, load_models
from posegen.common.faults import StorageFaultError
from posegen.common.progress import Progress, Stage
from posegen.common.storage import Folder, StorageError, absolute
from posegen.common.weights import WeightsError
from posegen.dataset import FAILED, KEPT, OPTIONAL_SCORES, REJECTED
from posegen.driving.poses.runtime import on_cpu, on_cuda

# A measuring process computes on one core all the time. It asks Ray for a little less, so that the light tasks that
# feed it, which ask for the rest, always find room, even with as many processes as cores.
WORKER_CPUS, LIGHT_CPUS = 0.9, 0.1
CAPTIONS_PER_BATCH = 8

CLIPS_PER_TASK = 32
"""Clips of a video that lies on this disk that one task scores: ten minutes of video. A video in a bucket is one task
however long it is, so that it is fetched once."""
ROUNDS, PAUSE_SECONDS = 4, 20.0
"""How often what the storage refused is tried again, and how long to wait before the first time; then twice as long."""
MOST_FAULTS, LEAST_TASKS = 0.05, 20
"""Share of tasks that the storage may refuse, once so many have been tried; more stop the job."""
MANY_TASKS = 20
"""Tasks of a worker from which on each is sent its next one ahead. That saves 0.2 s between two; with fewer tasks more
is lost at the end, where a long video waits for its worker while others have nothing to do."""
AGAIN = 75
"""Exit status of a job that the storage stopped: EX_TEMPFAIL of sysexits.h, try again later."""

LEAST_RATE = 8.1
"""Frames a second at which the shortest clip, of 81 frames, is half the longest, of 20 s: any shot can be split."""


def run(config: CurateConfig) -> dict[str, int]:
    """Runs the whole job; returns how many clips are kept, rejected and failed, or nothing for a dry run.

    Raises StorageError, StorageFaultError, ThresholdsError or SetupError, each a sentence, where it cannot be done.
    """
    thresholds = load_thresholds(config.thresholds)
    if config.explicit_detector is None:
        thresholds = thresholds.without("unsafe")
    if config.embedder is None:
        thresholds = dataclasses.replace(thresholds, semantic_duplicate_cosine=None)
    check(config)
    check_embedder(config, thresholds)
    captions = read_captions(config.captions) if config.captions else {}
    if config.dry_run:
        list_videos(config)
        print(estimate(config, listed_videos(config)))
        return {}
    start_ray()
    stages = [] if config.rescore else [list_videos(config)]
    groups = Groups(config, listed_videos(config))
    groups.join()
    if config.rescore:
        require_scores(config, groups)
    else:
        stages += score_videos(config, thresholds, groups)
        if config.people == "crop":
            stages.append(crop_people(config, thresholds, groups))
    groups.judge(thresholds)
    stages.append(cut_clips(config, groups))
    groups.with_own_captions(captions)
    if config.captioner != COMPOSED:
        stages.append(caption_clips(config, groups))
    if config.trigger:
        groups.with_trigger(config.trigger)
    counts = groups.write()
    write_report(Folder(config.output), thresholds, stages)
    return {status: counts[status] for status in (KEPT, REJECTED, FAILED)}


def check(config: CurateConfig) -> None:
    """Raises SetupError for settings that make no sense together."""
    if config.rescore and config.retry_failed:
        raise SetupError(
            "--rescore scores nothing, so --retry-failed has nothing to try; leave out one of them"
        )
    if config.limit is not None and config.limit < 1:
        raise SetupError(f"--limit {config.limit} leaves nothing to do; give 1 or more")
    if config.rate < LEAST_RATE:
        raise SetupError(
            f"--rate {config.rate:g} is too low for clips of 81 frames; give at least {LEAST_RATE:g}"
        )


def check_embedder(config: CurateConfig, thresholds: Thresholds) -> None:
    """Raises SetupError for an embedder, a head or a rule on its scores that cannot be used."""
    ruled = [rule.score for rule in thresholds.rules if rule.score in OPTIONAL_SCORES]
    if ruled and config.aesthetics is None:
        raise SetupError(f"{config.thresholds} has a rule for {ruled[0]}; give the head as --aesthetics too")
    if config.aesthetics is not None and config.embedder is None:
        raise SetupError("--aesthetics scores embeddings; give the model that makes them as --embedder too")
    if config.embedder is None:
        return
    from pipeline.score.embedder import load_head, width_of  # imports torch and transformers

    try:
        width = width_of(config.embedder)
        if config.aesthetics is not None:
            load_head(config.aesthetics, width)
    except (ValueError, WeightsError) as error:
        raise SetupError(str(error)) from error


def require_scores(config: CurateConfig, groups: Groups) -> None:
    """Raises StorageError where not everything listed has scores of these settings."""
    if not groups.listed.num_rows or groups.unscored(False, None):
        raise StorageError(
            f"{config.output} holds no finished scores of these settings; run without --rescore first"
        )


def score_videos(config: CurateConfig, thresholds: Thresholds, groups: Groups) -> list[Stage]:
    """Plans and scores what has no plan or no scores, each video fetched once, and cuts out what passes the rules.

    What the storage refused is tried again after a pause. Raises StorageFaultError where it refuses too much.
    """
    most_clips = CLIPS_PER_TASK if Folder(config.input).local else None
    stages, faults, retry = list[Stage](), dict[str, str](), config.retry_failed
    gpus: Gpus | None = None
    for attempt in range(ROUNDS):
        tables = groups.unscored(retry, most_clips)
        if not tables and stages:
            break
        if faults:
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        if tables:
            load_models(config, make_models, config.gpu_share)
            gpus = gpus or start_gpus(config)
        unit = "parts of videos" if stages else "videos"
        progress = Progress("score", unit, count(tables), rate_unit="frames")
        arguments = (thresholds, most_clips, gpus)
        faults = work(config, tables, VideoWorker, arguments, progress, groups.claims())
        stages.append(progress.end())
        groups.join()
        retry = False
    if faults:
        refused(faults, groups.listed.num_rows)
        groups.fail(faults)
    return stages


def crop_people(config: CurateConfig, thresholds: Thresholds, groups: Groups) -> Stage:
    """Crops people out of clips whose scores stood before, under other rules; of new ones that is done with scoring."""
    most_clips = CLIPS_PER_TASK if Folder(config.input).local else None
    tables = groups.uncropped(thresholds, config.retry_failed, most_clips)
    progress = Progress("crop", "videos", count(tables), rate_unit="clips")
    if tables:
        load_models(config, make_models, config.gpu_share)
        refused(
            work(config, tables, CropWorker, (thresholds, None, start_gpus(config)), progress), progress.done
        )
        groups.join()
    return progress.end()


def make_models(config: CurateConfig) -> None:
    """Loads what plans, scores and crops, on a GPU where GPUs are to be used."""
    open_model = on_cuda if config.gpu_share else on_cpu
    make_planner(
        config, transnet_on("cuda") if config.gpu_share and config.detector == "transnetv2" else None
    )
    embed = None
    if config.gpu_share and config.embedder:
        from pipeline.score.embedder import ClipEmbedder  # imports torch and transformers

        embed = ClipEmbedder(config.embedder, "cuda")
    make_scorer(config, open_model, embed)
    if config.people == "crop":
        make_cropper(config, open_model)


def work(
    config: Pool,
    tables: list[Any],
    worker: Any,
    arguments: tuple[Any, ...],
    progress: Progress,
    claims: Mapping[str, str] = {},
) -> dict[str, str]:
    """Runs a pool of workers over tasks, one at a time each; returns what the storage refused, by path.

    claims: which file's work a video's already is, by video_id.
    """
    faults: dict[str, str] = {}
    if not tables:
        return faults
    tasks, count = single_rows(tables)
    done = tasks.map(
        worker,
        fn_constructor_args=(config, attempts(claims), *arguments),
        compute=pool(config, count),
        num_cpus=WORKER_CPUS,
        num_gpus=config.gpus_per_worker,
    )
    for table in blocks(done):
        for row in table.to_pylist():
            progress.add(work=row["work"], failed=row["failed"])
            if row["fault"] is not None:
                faults[row["path"]] = row["fault"]
        if progress.done >= LEAST_TASKS:
            refused(faults, progress.done)
    return faults


def refused(faults: dict[str, str], tried: int) -> None:
    """Raises StorageFaultError where the storage refused too many of so many tasks."""
    if len(faults) > MOST_FAULTS * tried:
        path, said = next(iter(faults.items()))
        raise StorageFaultError(
            f"the storage refused {len(faults):,} of {tried:,} videos, such as {path} ({said}); what was done is "
            "recorded, so run the job again once the storage is well"
        )


def cut_clips(config: CurateConfig, groups: Groups) -> Stage:
    """Cuts out the kept clips that were not cut out when they were scored, as under other thresholds."""
    tables = groups.uncut()
    progress = Progress("cut", "videos", count(tables), rate_unit="clips")
    if tables:
        refused(work(config, tables, CutWorker, (), progress), progress.done)
        groups.with_media()
    return progress.end()


def caption_clips(config: CurateConfig, groups: Groups) -> Stage:
    """Captions the kept clips that have no caption of the model, on GPUs where there are any."""
    tables = groups.uncaptioned()
    progress = Progress("caption", "clips", count(tables))
    if tables:
        ask = ask_vllm if config.caption_engine == "vllm" else ask_transformers
        done = ask(config, groups, ray.data.from_arrow_refs(tables))
        for table in blocks(done):
            progress.add(table.num_rows, failed=table.num_rows - table["error_stage"].null_count)
    groups.with_captions()
    return progress.end()


def ask_transformers(config: CurateConfig, groups: Groups, clips: Dataset) -> Dataset:
    """Captions clips with transformers, whole batches at a time."""
    # A 7B model in bfloat16 takes 17 GB of a GPU: one replica each. Without GPUs one process, for small models.
    gpus = int(ray.cluster_resources().get("GPU", 0))
    load_models(config, make_captioner, float(gpus > 0))
    return clips.map_batches(
        CaptionWorker,
        fn_constructor_args=(config, attempts(), groups.cuts),
        batch_size=CAPTIONS_PER_BATCH,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=max(1, gpus)),
        num_cpus=1,
        num_gpus=float(gpus > 0),
    )


def ask_vllm(config: CurateConfig, groups: Groups, clips: Dataset) -> Dataset:
    """Captions clips with vLLM: engines on the GPUs, frames read and answers recorded beside them.

    Raises SetupError where vLLM cannot run.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    has_vllm = ray.remote(num_gpus=1)(lambda: find_spec("vllm") is not None)
    if not gpus or not ray.get(has_vllm.remote()):
        raise SetupError(
            "--caption-engine vllm needs a GPU, and there the packages of ray[llm]; caption with transformers instead"
        )
    from pipeline.caption.vllm import make_processor  # imports Ray's engines
    from pipeline.vllm_workers import AnswerRecorder, FrameReader

    frames = clips.map_batches(
        FrameReader,
        fn_constructor_args=(config, groups.cuts),
        batch_size=CAPTIONS_PER_BATCH,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=4 * gpus),
        num_cpus=1,
    )
    answers = make_processor(config, gpus)(frames)
    recorder: Any = AnswerRecorder
    return answers.map(recorder, fn_constructor_args=(config,), compute=ActorPoolStrategy(size=1))


def single_rows(tables: list[Any]) -> tuple[Dataset, int]:
    """The rows of tables in the object store, each a block, and so a task, of its own; and how many they are."""
    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # bytes
    with DataContext.current(context):
        whole = ray.data.from_arrow_refs(tables)
        rows = whole.map_batches(one_by_one, batch_size=None, batch_format="pyarrow", num_cpus=LIGHT_CPUS)
    return rows, whole.count()


def blocks(rows: Dataset) -> Iterator[pa.Table]:
    """The blocks of a dataset as they come out, Arrow tables; empty ones are left out."""
    found: Iterator[Any] = iter(
        rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    )
    for table in found:
        if table.num_rows:
            yield table


def attempts(claims: Mapping[str, str] = {}) -> Any:
    """A new count of attempts, for one stage of this run: the handle of an actor, on the driver's node.

    Where the driver runs nothing is lost but together with the job.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(Attempts).options(**options).remote(alive_nodes, claims)


def pool(config: Pool, tasks: int) -> ActorPoolStrategy:
    """The processes that measure: as many as were asked for, or as the cluster holds, also once it has grown.

    tasks: how many there are for all of them.
    """
    size = pool_size(config)
    queued = tasks >= MANY_TASKS * size
    return ActorPoolStrategy(
        min_size=size,
        max_size=size if config.workers else None,
        max_tasks_in_flight_per_actor=2 if queued else 1,
    )


def pool_size(config: Pool) -> int:
    """How many measuring processes the cluster holds."""
    resources = ray.cluster_resources()
    if config.workers:
        return config.workers
    if config.gpus_per_worker:
        return max(1, int(resources.get("GPU", 0) / config.gpus_per_worker))
    return max(1, int(resources.get("CPU", 0)))  # the head may have none, and the other nodes not be up yet


def start_ray() -> None:
    """Joins the cluster that RAY_ADDRESS names or this machine runs, else starts one for the run."""
    if not ray.is_initialized():
        # The rows say what failed; the output of workers stays in Ray's log folder.
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    context = DataContext.get_current()
    context.enable_progress_bars = False
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
    except StorageFaultError as fault:
        print(f"curate: {' '.join(str(fault).split())}", file=sys.stderr)
        sys.exit(AGAIN)
    if counts:
        print(", ".join(f"{count:,} {status}" for status, count in counts.items()))
        print(f"report: {config.output}/report.html")


if __name__ == "__main__":
    main()

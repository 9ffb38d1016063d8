"""Measures a folder of generated videos, one a task, on Ray Data.

    python pipeline/evaluate.py --input videos --output evaluation
    ray job submit --working-dir . -- python pipeline/evaluate.py --input s3://made/videos --output s3://made/evaluation

The job, top to bottom: list the videos and what belongs to each; measure each once; write the tables and the summary.
Measured videos are recorded one by one, so a job that was killed goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import sys

import ray
import tyro
from ray.data import ActorPoolStrategy

from pipeline.curate import WORKER_CPUS, attempts, pool_size, start_ray, tables
from pipeline.evaluating.config import EvaluateConfig
from pipeline.evaluating.listing import list_subjects
from pipeline.evaluating.summary import write_summary
from pipeline.evaluating.worker import EvaluateWorker, evaluation_journal, make_evaluator
from pipeline.workers import SetupError, load_models
from posegen.common.progress import Progress
from posegen.common.storage import Folder, StorageError, absolute


def run(config: EvaluateConfig) -> dict[str, int]:
    """Runs the whole job; returns how many videos were measured and how many failed.

    Raises StorageError or SetupError, a sentence, where it cannot be done.
    """
    subjects, journal = list_subjects(config), evaluation_journal(config)
    progress = Progress("evaluate", "videos", len(subjects), rate_unit="frames")
    open_rows = [row for row in subjects if journal.is_open(row["key"], config.retry_failed)]
    progress.find(len(subjects) - len(open_rows))
    if open_rows:
        start_ray()
        load_models(config, make_evaluator, config.gpus_per_worker)
        # A block, and so a task, for each video: a worker that dies loses one video's work.
        done = ray.data.from_items(open_rows, override_num_blocks=len(open_rows)).map(
            EvaluateWorker,
            fn_constructor_args=(config, attempts()),
            compute=ActorPoolStrategy(
                size=min(pool_size(config), len(open_rows)), max_tasks_in_flight_per_actor=2
            ),
            num_cpus=WORKER_CPUS,
            num_gpus=config.gpus_per_worker,
        )
        for table in tables(done):
            for row in table.to_pylist():
                progress.add(work=row["work"], failed=row["failed"])
    progress.end()
    return write_summary(Folder(config.output), (journal.read(row["key"]) for row in subjects))


def main() -> None:
    """The command line."""
    config = tyro.cli(EvaluateConfig, description=__doc__)
    # Workers may run in another directory than the driver.
    config = dataclasses.replace(config, input=absolute(config.input), output=absolute(config.output))
    try:
        counts = run(config)
    except (StorageError, SetupError) as error:
        sys.exit(f"evaluate: {error}")
    print(", ".join(f"{count:,} {status}" for status, count in counts.items()))
    print(f"summary: {config.output}/summary.md")


if __name__ == "__main__":
    main()

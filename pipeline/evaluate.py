"""Measures a folder of generated videos, one a task, on Ray Data.

    python pipeline/evaluate.py --input videos --output evaluation
    ray job submit --working-dir . -- python pipeline/evaluate.py --input s3://made/videos --output s3://made/evaluation

The job, top to bottom: list the videos and what belongs to each; measure each once; write the tables and the summary.
Measured videos are recorded one by one, so a job that was killed goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import sys

import pyarrow as pa
import ray
import tyro

from pipeline.curate import start_ray, work
from pipeline.evaluating.config import EvaluateConfig
from pipeline.evaluating.listing import list_subjects
from pipeline.evaluating.summary import write_summary
from pipeline.evaluating.worker import EvaluateWorker, evaluation_journal, make_evaluator
from pipeline.records.journal import Journal, is_failed
from pipeline.workers import SetupError, load_models
from posegen.common.faults import StorageFaultError
from posegen.common.progress import Progress
from posegen.common.storage import Folder, StorageError, absolute


def run(config: EvaluateConfig) -> dict[str, int]:
    """Runs the whole job; returns how many videos were measured and how many failed.

    Raises StorageError, StorageFaultError or SetupError, a sentence, where it cannot be done.
    """
    subjects, journal = list_subjects(config), evaluation_journal(config)
    todo = [row for row in subjects if is_open(journal, row["key"], config.retry_failed)]
    progress = Progress("evaluate", "videos", len(subjects), rate_unit="frames")
    progress.find(len(subjects) - len(todo))
    faults: dict[str, str] = {}
    if todo:
        start_ray()
        load_models(config, make_evaluator, config.gpus_per_worker)
        faults = work(config, [ray.put(pa.Table.from_pylist(todo))], EvaluateWorker, (), progress)
    progress.end()
    if faults:
        path, said = next(iter(faults.items()))
        raise StorageFaultError(
            f"the storage refused {len(faults):,} videos, such as {path} ({said}); what was done is recorded, so run "
            "the job again once the storage is well"
        )
    return write_summary(Folder(config.output), (journal.read(row["key"], row["key"]) for row in subjects))


def is_open(journal: Journal, key: str, retry_failed: bool) -> bool:
    """Whether a video is still to measure; a failed one that is to be tried again loses its record."""
    if not journal.has(key, key):
        return True
    again = retry_failed and is_failed(journal.read(key, key, ["error_stage"]))
    if again:
        journal.folder.delete(journal.name(key, key))
    return again


def main() -> None:
    """The command line."""
    config = tyro.cli(EvaluateConfig, description=__doc__)
    # Workers may run in another directory than the driver.
    config = dataclasses.replace(config, input=absolute(config.input), output=absolute(config.output))
    try:
        counts = run(config)
    except (StorageError, StorageFaultError, SetupError) as error:
        sys.exit(f"evaluate: {error}")
    print(", ".join(f"{count:,} {status}" for status, count in counts.items()))
    print(f"summary: {config.output}/summary.md")


if __name__ == "__main__":
    main()

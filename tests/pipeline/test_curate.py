"""The whole job on a real Ray cluster: what it ends with, what a rerun redoes, and what a bad clip may not do.

One cluster serves the module. The folder holds a talking man, the same file again, a drawn rabbit, a film without
anybody, and files that are no video; the claims below are about that folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import yaml

from pipeline.config import CurateConfig
from pipeline.curate import run, score_videos, work
from pipeline.feeds import listed_videos
from pipeline.groups import Groups, count
from pipeline.journals import score_journal
from pipeline.plan.listing import list_videos
from pipeline.plan.source import Source
from pipeline.sample_videos import SAMPLES
from pipeline.score.embedding import Embed
from pipeline.verdict import NOBODY, load_thresholds
from pipeline.workers import SetupError, VideoWorker
from posegen import versions
from posegen.captions.subject_words import subject_word
from posegen.common.progress import Progress
from posegen.common.storage import Folder, StorageError
from posegen.common.weights import wheel_file
from posegen.dataset import CLIPS, MEDIA, SCORES, unpack_keypoints
from posegen.driving.poses.runtime import OpenModel, on_cpu
from posegen.video import probe, read_frames, sample_indices, save_video
from testkit import ROOT
from testkit.curation_workers import curation_workers
from testkit.job_server import JobServer, until
from testkit.videos import write_video

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

SMALL_SOURCES = ROOT / "tests" / "data" / "small_sources.yaml"
RULES = ["--thresholds", str(SMALL_SOURCES)]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    shutil.copyfile(wheel_file(*SAMPLES["rabbit.mp4"]), folder / "rabbit.mp4")
    talk = probe(wheel_file(*SAMPLES["talk.mp4"]))
    frames = np.concatenate(list(read_frames(talk, range(len(talk.frame_times)), (480, 360))))
    save_video(frames, folder / "talk.mp4", 30)  # as large as a clip must be
    (folder / "again").mkdir()
    shutil.copyfile(folder / "talk.mp4", folder / "again" / "talk.mp4")
    write_video(folder / "nobody.mp4", range(90), picture=drifting)
    (folder / "empty.webm").touch()
    (folder / "text.mp4").write_text("this is no video")
    (folder / "notes.txt").write_text("left out by its name")
    return folder


def drifting(number: int) -> np.ndarray:
    """A grey slope (96, 160, 3) that moves a little: no cut, nobody."""
    slope = np.linspace(60, 180, 160) + number / 10
    return np.broadcast_to(slope[None, :, None], (96, 160, 3)).astype(np.uint8)


def settings(videos: Path, output: Path, **how: Any) -> CurateConfig:
    """A run over the videos by rules that allow small ones."""
    return CurateConfig(str(videos), str(output), **{"thresholds": SMALL_SOURCES} | how)


@pytest.fixture(scope="module")
def dataset(ray_cluster: str, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run makes of the folder."""
    output = tmp_path_factory.mktemp("undisturbed")
    run(settings(videos, output))
    return output


def rows(output: Path) -> pa.Table:
    """The finished table without what a clock measured."""
    return pq.read_table(output / "clips").drop_columns(["cpu_seconds"])


def by_path(output: Path) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in pq.read_table(output / "clips").to_pylist()}


def test_every_file_ends_as_a_row_with_a_reason(dataset: Path) -> None:
    found = by_path(dataset)
    assert set(found) == {"talk.mp4", "again/talk.mp4", "rabbit.mp4", "nobody.mp4", "empty.webm", "text.mp4"}
    statuses = {path: row["status"] for path, row in found.items()}
    assert statuses["again/talk.mp4"] == "kept"
    assert statuses["talk.mp4"] == statuses["rabbit.mp4"] == statuses["nobody.mp4"] == "rejected"
    assert statuses["empty.webm"] == statuses["text.mp4"] == "failed"
    assert found["talk.mp4"]["reasons"] == ["duplicate_file: same content as again/talk.mp4"]
    assert NOBODY in found["nobody.mp4"]["reasons"] and found["nobody.mp4"]["caption"] is None
    assert found["empty.webm"]["error_message"] == "empty.webm: the file is empty; copy or export it again."


def test_tables_hold_their_schemas_and_open_everywhere(dataset: Path) -> None:
    clips = pq.read_table(dataset / "clips")
    assert clips.schema.remove_metadata() == CLIPS
    assert clips["clip_id"].to_pylist() == sorted(set(clips["clip_id"].to_pylist()))
    assert pq.read_table(dataset / "media").schema.remove_metadata() == MEDIA
    kept = "select count(*) from '{}/clips/*.parquet' where status = 'kept'"
    assert duckdb.execute(kept.format(dataset)).fetchall() == [(1,)]
    assert len(pd.read_parquet(dataset / "clips")) == clips.num_rows
    assert ray.data.read_parquet(str(dataset / "clips")).count() == clips.num_rows


def test_a_kept_clip_has_pose_caption_and_the_very_frames(
    dataset: Path, videos: Path, tmp_path: Path
) -> None:
    row = by_path(dataset)["again/talk.mp4"]
    keypoints = unpack_keypoints(row)
    assert keypoints.shape == (row["frames"], 133, 3) and np.isfinite(keypoints).all()
    assert row["caption"].count("person") == 1
    media = pq.read_table(dataset / "media").to_pylist()[0]
    assert media["clip_id"] == row["clip_id"]
    (tmp_path / "clip.mp4").write_bytes(media["media"])
    copied, source = probe(tmp_path / "clip.mp4"), probe(videos / "talk.mp4")
    begin, length = media["media_start"], media["seconds"]
    ours = sample_indices(copied, begin, begin + length, media["rate"])
    theirs = sample_indices(source, row["start"], row["stop"], row["rate"])
    for a, b in zip(read_frames(copied, ours), read_frames(source, theirs), strict=True):
        assert np.array_equal(a, b)


def test_a_rerun_scores_nothing_again(dataset: Path, videos: Path) -> None:
    groups = joined(settings(videos, dataset))
    assert groups.unscored(retry_failed=False, most_clips=None) == []
    assert count(groups.unscored(retry_failed=True, most_clips=None)) == 2  # those that cannot be read


def joined(config: CurateConfig) -> Groups:
    list_videos(config)
    groups = Groups(config, listed_videos(config))
    groups.join()
    return groups


def test_a_new_threshold_needs_no_model(dataset: Path, videos: Path, tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    shutil.copytree(dataset, output)
    lenient = tmp_path / "lenient.yaml"
    rules = dict.fromkeys(SCORES) | {"seconds": {"min": 1}, "near_duplicate_bits": 0}
    lenient.write_text(yaml.safe_dump(rules))
    config = settings(videos, output, thresholds=lenient, rescore=True)
    assert run(config) == {"kept": 3, "rejected": 1, "failed": 2}
    assert len(pq.read_table(output / "media")) == 3
    assert run(dataclasses.replace(config, thresholds=SMALL_SOURCES))["kept"] == 1
    assert rows(output).equals(rows(dataset))
    assert [len(versions.files(Folder(str(output)), "media", number)) for number in (1, 2, 3)] == [1, 1, 1]


def test_rescoring_what_was_never_scored_is_refused(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="run without --rescore first"):
        run(settings(videos, tmp_path, rescore=True))


def test_rescoring_under_other_settings_is_refused(dataset: Path, videos: Path) -> None:
    with pytest.raises(StorageError, match="run without --rescore first"):
        run(settings(videos, dataset, rate=24, rescore=True))


def test_rescoring_and_retrying_at_once_is_refused_and_deletes_nothing(dataset: Path, videos: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    with pytest.raises(SetupError, match="leave out one of them"):
        run(settings(videos, dataset, rescore=True, retry_failed=True))
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def test_missing_weights_are_said_in_a_sentence(videos: Path, tmp_path: Path) -> None:
    config = settings(videos, tmp_path, person_detector=str(tmp_path))
    with pytest.raises(SetupError, match=r"yolox_l.onnx is not in .*: put it there"):
        run(config)


def test_a_model_captions_what_is_kept_and_nothing_else(
    dataset: Path, videos: Path, tiny_qwen: Path, tmp_path: Path
) -> None:
    output = tmp_path / "dataset"
    shutil.copytree(dataset, output)
    run(settings(videos, output, captioner=str(tiny_qwen), rescore=True))
    found = by_path(output)
    assert found["again/talk.mp4"]["caption_source"] == str(tiny_qwen)
    assert found["rabbit.mp4"]["caption_source"] == "composed"
    assert subject_word(found["again/talk.mp4"]["caption"]) == found["again/talk.mp4"]["subject"]


def test_killed_workers_change_nothing(dataset: Path, videos: Path, tmp_path: Path) -> None:
    killed: list[int] = []
    ended = threading.Event()

    def kill_some() -> None:
        chance = random.Random(1)
        while len(killed) < 3 and not ended.wait(chance.uniform(2, 6)):
            if workers := curation_workers(os.getpid()):
                worker = chance.choice(workers)
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
                    killed.append(worker.pid)

    killer = threading.Thread(target=kill_some)
    killer.start()
    try:
        run(settings(videos, tmp_path))
    finally:
        ended.set()
        killer.join()
    assert len(killed) == 3, "the job ended before its workers were killed"
    assert rows(tmp_path).equals(rows(dataset))


def test_a_killed_driver_leaves_what_a_rerun_needs(
    ray_cluster: str, dataset: Path, videos: Path, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "pipeline/curate.py",
        "--input",
        str(videos),
        "--output",
        str(tmp_path),
        *RULES,
    ]
    driver = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"RAY_ADDRESS": ray_cluster})
    scores = tmp_path / "work"
    until(lambda: bool(list(scores.glob("scores-*/loose/*/*.parquet"))))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = [pq.read_table(path) for path in scores.glob("scores-*/loose/*/*.parquet")]
    run(settings(videos, tmp_path))
    packed = [pq.read_table(path) for path in scores.glob("scores-*/packed/*/*.parquet")]
    after = [drop(table, "video", "key") for table in packed]
    assert {row for table in before for row in drop(table)} <= set().union(*after)
    assert rows(tmp_path).equals(rows(dataset))


def drop(records: pa.Table, *columns: str) -> set[str]:
    """The rows without some columns; as text, in which what is no number equals itself."""
    return {repr(row) for row in records.drop_columns(list(columns)).to_pylist()}


class FaultyWorker(VideoWorker):
    """Scores as usual, but some clips crash, hang or trip it: by their file, as none is known that does."""

    clip_seconds = 3.0

    @staticmethod
    def make_scorer(
        config: CurateConfig, open_model: OpenModel = on_cpu, embed: Embed | None = None
    ) -> Callable[..., pa.Table]:
        del config, open_model, embed

        def score(clip: dict[str, Any], source: Source) -> pa.Table:
            del source
            if clip["path"] == "rabbit.mp4":
                ctypes.string_at(0)  # a segmentation fault, as in a decoder
            if clip["path"] == "nobody.mp4":
                ctypes.PyDLL(None).sleep(1000)  # holds the interpreter's lock, as a stuck library does
            raise RuntimeError("tripped\nover a frame")

        return score


def test_a_clip_that_crashes_hangs_or_trips_a_worker_fails_alone(videos: Path, tmp_path: Path) -> None:
    config = settings(videos, tmp_path)
    groups = joined(config)
    arguments = (load_thresholds(SMALL_SOURCES), None)
    work(config, groups.unscored(False, None), FaultyWorker, arguments, Progress("score", "videos"))
    groups.join()
    journal = score_journal(config)
    records = [
        row
        for files in groups.scores.values()
        for row in journal.rows(files, ["error_type", "error_message"]).to_pylist()
    ]
    messages = sorted((row["error_type"], row["error_message"]) for row in records)
    assert [kind for kind, _ in messages] == ["RuntimeError", "WorkerDiedError", "WorkerDiedError"]
    assert messages[0][1] == "tripped over a frame"
    assert "3 times" in messages[1][1]
    retried = dataclasses.replace(config, retry_failed=True)
    score_videos(retried, load_thresholds(SMALL_SOURCES).without("unsafe"), groups)
    tables: list[Any] = ray.get(list(groups.rows.values()))
    found = {row["path"]: row["error_type"] for table in tables for row in table.to_pylist()}
    assert {path for path, error in found.items() if error} == {"empty.webm", "text.mp4"}


def test_the_job_runs_by_ray_job_submit_from_the_working_directory(
    job_server: JobServer, dataset: Path, videos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "dataset"
    entry = [sys.executable, "pipeline/curate.py", "--input", str(videos), "--output", str(output), *RULES]
    done = job_server.job("submit", "--working-dir", ".", "--", *entry)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "score    6/6 videos" in done.stdout and "1 kept, 3 rejected, 2 failed" in done.stdout
    assert rows(output).equals(rows(dataset))


def test_a_rate_too_low_for_any_clip_is_refused(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="--rate 5 is too low"):
        run(settings(videos, tmp_path, rate=5))

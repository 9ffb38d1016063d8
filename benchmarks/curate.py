"""Curation on Ray beside a plain loop over the same functions and beside MediaPipe's own Holistic: speed and accuracy.

- All three see the same videos in one run, in the order loop, MediaPipe, job, MediaPipe, loop, three times, so that a
  machine that slows down slows all alike. The loop and MediaPipe take one half of a round's videos on each side of the
  job. Ratios are given for all rounds together and as the range of the three.
- Beside each round stands how much more the machine's cores do together than one (machine.py): the job cannot gain
  more, whatever it does, and where two cores are two threads of one core that is far from 2.
- The job is planning and scoring with a worker a core. Its seconds run from the beginning of the first video's work to
  the end of the last one's: starting Ray and the workers is paid once a run, not a frame, and printed apart. What the
  workers wait for rows, and for one another at the end, is in. Ray only runs while the job does.
- Ray starts its workers at niceness 15, by which everything else on the machine goes before them; here they are started
  at 0, as the loop and MediaPipe run.
- The loop is one process that plans, scores and records video after video. MediaPipe has an environment of its own, the
  short side that curation measures at, and all cores. Models are loaded before either's clock starts.
- Frames are distinct source frames looked at. Videos have at most 30 frames/s, so nobody leaves one out; frames that
  the job repeats to come to its target rate count once.
- Overhead is CPU time outside decoding and models: first of the measuring itself (scoring as the job records it,
  planning as the loop times it), then of all processes of the job, Ray's own with them, while it works.
- Distance to MediaPipe's landmarks is taken on videos of one person, and OKS on annotated pictures; see
  mediapipe_peer.py and wholebody_oks.py.

    python benchmarks/curate.py [--data FOLDER] [--wholebody FOLDER]
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import ray
import tyro

from benchmarks.machine import scaling
from benchmarks.mediapipe_peer import PARTS, distances, holistic, track
from benchmarks.wholebody_oks import evaluate
from pipeline.config import CurateConfig
from pipeline.curate import CLIPS_PER_TASK, pool_size, start_ray, work
from pipeline.feeds import listed_videos
from pipeline.groups import Groups
from pipeline.journals import plan_journal, score_journal
from pipeline.plan.listing import list_videos
from pipeline.plan.planner import PLAN, make_planner
from pipeline.plan.source import Source
from pipeline.sample_videos import fetch_samples
from pipeline.score.scorer import make_scorer
from pipeline.verdict import Rule, Thresholds
from pipeline.workers import VideoWorker
from posegen.common.profiling import collect, timed
from posegen.common.progress import Progress
from posegen.common.storage import Folder
from posegen.video import probe, sample_indices

SAMPLES = ("walk.mp4", "talk.mp4", "rabbit.mp4", "bicycles.mp4")
"""Sample videos of at most 30 frames/s."""
ONE_PERSON = ("walk.mp4", "talk.mp4", "balance_1.mp4", "balance_2.mp4", "balance_3.mp4", "balance_4.mp4")
"""Sample videos of one real person: where two trackers may follow different people, distances say nothing."""
MOST_RATE = 30.5
"""Frames/s; of faster videos the job leaves frames out."""


@dataclass
class Run:
    """What one of the three did, over all rounds.

    frames: distinct source frames looked at, in so many seconds of wall-clock. cpu: CPU seconds by name ("tree": of all
    processes). Of the job only: seconds of start-up, and how long its workers were at work, all of them together.
    """

    frames: int = 0
    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    startup: float = 0.0
    busy: float = 0.0
    workers: int = 1

    @property
    def rate(self) -> float:
        """Frames a second."""
        return self.frames / max(self.seconds, 1e-9)

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of CPU a frame, which what else the machine does hardly touches."""
        return 1000 * self.cpu["tree"] / max(self.frames, 1)

    def add(self, other: Run) -> None:
        """Adds another round's."""
        self.frames += other.frames
        self.seconds += other.seconds
        self.startup += other.startup
        self.busy += other.busy
        self.workers = other.workers
        self.used(other.cpu)

    def used(self, cpu: Mapping[str, float]) -> None:
        """Adds CPU seconds by name."""
        for name, seconds in cpu.items():
            self.cpu[name] += seconds


@dataclass
class Round:
    """What each of the three did in a round, and how much more all cores did than one just before, by kind."""

    runs: dict[str, Run]
    gain: dict[str, float]


NOTHING_KEPT = Thresholds((Rule("seconds", max=0),), near_duplicate_bits=0)
"""So that no clip is cut out, which neither of the others does."""


class ClockedWorker(VideoWorker):
    """Plans and scores as usual, and notes when each video's work began and ended, in a file of its own."""

    def __init__(self, config: CurateConfig, *arguments: Any):
        super().__init__(config, *arguments)
        self.clock = clock_folder(config) / str(os.getpid())
        self.clock.parent.mkdir(exist_ok=True)

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        began = time.time()
        done = super().__call__(task)
        with self.clock.open("a") as file:
            file.write(f"{began} {time.time()}\n")
        return done


def clock_folder(config: CurateConfig) -> Path:
    """Where the workers note their times."""
    return Path(config.output) / "clock"


class TreeCPU(threading.Thread):
    """Twice a second, the CPU seconds of this process and all below it: with Ray's own, whose parent it is."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stopped = threading.Event()
        self.of_process: dict[int, float] = {}  # ended ones stay
        self.times: list[float] = []
        self.seconds: list[float] = []

    def run(self) -> None:
        while not self.stopped.is_set():
            self.sample()
            self.stopped.wait(0.5)
        self.sample()

    def sample(self) -> None:
        """Adds what has been used by now."""
        import psutil  # comes with Ray, which puts it on the path

        self.times.append(time.time())
        own = psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self.of_process[process.pid] = times.user + times.system
        self.seconds.append(sum(self.of_process.values()))

    def between(self, began: float, ended: float) -> float:
        """CPU seconds used from one time to another."""
        low, high = np.interp([began, ended], self.times, self.seconds)
        return float(high - low)


@contextmanager
def tree_cpu() -> Iterator[TreeCPU]:
    """Samples the processes' CPU seconds while the block runs."""
    sampler = TreeCPU()
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.stopped.set()
        sampler.join()


def job(config: CurateConfig, run: Run) -> None:
    """Plans and scores a folder on Ray; adds to the run."""
    started = time.time()
    start_ray()
    run.workers = pool_size(config)
    list_videos(config)
    groups = Groups(config, listed_videos(config))
    with tree_cpu() as sampler:
        tasks = groups.unscored(False, CLIPS_PER_TASK)
        arguments = (NOTHING_KEPT, CLIPS_PER_TASK)
        work(config, tasks, ClockedWorker, arguments, Progress("score", "videos", rate_unit="frames"))
    ray.shutdown()  # idle, it would still take a few percent of the machine from the others
    everything = time.time() - started
    rows = np.concatenate([np.loadtxt(file, ndmin=2) for file in clock_folder(config).iterdir()])
    began, ended = rows[:, 0].min(), rows[:, 1].max()
    seconds = ended - began
    run.busy += float((rows[:, 1] - rows[:, 0]).sum())
    run.cpu["tree"] += sampler.between(began, ended)
    run.seconds += seconds
    run.startup += everything - seconds
    frames, cpu = looked_at(config)
    run.frames += frames
    for of_clip in cpu:
        run.used(of_clip)


def looked_at(config: CurateConfig) -> tuple[int, list[dict[str, float]]]:
    """Distinct source frames in a finished run's clips, and the CPU seconds by name that each clip's scores took."""
    plans, scores = plan_journal(config), score_journal(config)
    count, cpu = 0, []
    for group, files in plans.files().items():
        clips = plans.rows(plans.pack(group, files), PLAN.names)
        for clip in clips.filter(pc.is_null(clips["error_stage"])).to_pylist():
            info = probe(Path(config.input) / clip["path"])
            count += len(np.unique(sample_indices(info, clip["start"], clip["stop"], clip["rate"])))
    for group, files in scores.files().items():
        seconds = scores.rows(scores.pack(group, files), ["cpu_seconds"])["cpu_seconds"]
        clips = [of_clip for of_clip in seconds.to_pylist() if of_clip is not None]
        cpu += [{spent["step"]: spent["seconds"] for spent in of_clip} for of_clip in clips]
    return count, cpu


def loop(config: CurateConfig, run: Run) -> None:
    """Plans and scores a folder in this process, one video after another; adds to the run."""
    cv2.setNumThreads(1)
    list_videos(config)
    planner, scorer = make_planner(config), make_scorer(config)
    plans, scores = plan_journal(config), score_journal(config)
    started, cpu_started = time.perf_counter(), time.thread_time()
    for row in listed_videos(config).to_pylist():
        with Source(Folder(config.input), row["path"]) as source:
            with collect() as seconds, timed("all"):
                clips = planner(source)
            run.used(seconds)
            plans.write(source.id, row["key"], clips)
            for clip in clips.to_pylist():
                scores.write(source.id, clip["clip_id"], scorer(clip, source))
    run.seconds += time.perf_counter() - started
    run.cpu["tree"] += time.thread_time() - cpu_started
    run.frames += looked_at(config)[0]


def mediapipe(folder: Path, run: Run) -> None:
    """MediaPipe's Holistic over a folder's videos, decoding them itself; adds to the run."""
    for found in holistic(sorted(folder.iterdir())):
        run.frames += len(found["pose"])
        run.seconds += float(found["seconds"][1])
        run.cpu["tree"] += float(found["seconds"][2])


def lay_out(videos: list[Path], copies: int, rounds: int, root: Path) -> list[tuple[Path, list[Path]]]:
    """Puts copies of the videos into folders; returns each round's folder and the two halves below it.

    Each copy gets another content, as equal files are scored once: an empty box at the end of an MP4 file, which
    players pass over (ISO 14496-12, 8.1.2: free).
    """
    sources = [(video, copy) for copy in range(copies) for video in videos]
    folders = [root / f"round-{number // 2}" / f"half-{number % 2}" for number in range(2 * rounds)]
    for folder, number in zip(folders, np.array_split(np.arange(len(sources)), len(folders)), strict=True):
        folder.mkdir(parents=True)
        for video, copy in (sources[index] for index in number):
            box = struct.pack(">I4sI", 12, b"free", copy) if copies > 1 else b""
            (folder / f"{video.stem}-{copy}{video.suffix}").write_bytes(video.read_bytes() + box)
    return [
        (first.parent, [first, second]) for first, second in zip(folders[::2], folders[1::2], strict=True)
    ]


def race(rounds: list[tuple[Path, list[Path]]], scratch: Path, trial: Path) -> list[Round]:
    """Runs all three over all rounds."""
    os.environ.update(RAY_worker_niceness="0")
    done = []
    loop(CurateConfig(str(trial), str(scratch / "trial")), Run())  # imports and models that are loaded late
    for number, (folder, (first, second)) in enumerate(rounds):
        runs, gain = {"job": Run(), "loop": Run(), "mediapipe": Run()}, scaling(os.cpu_count() or 1)
        outputs = [str(scratch / f"{name}-{number}") for name in ("loop-first", "job", "loop-second")]
        loop(CurateConfig(str(first), outputs[0]), runs["loop"])
        mediapipe(first, runs["mediapipe"])
        job(CurateConfig(str(folder), outputs[1]), runs["job"])
        mediapipe(second, runs["mediapipe"])
        loop(CurateConfig(str(second), outputs[2]), runs["loop"])
        rates = ", ".join(f"{name} {run.rate:.1f}" for name, run in runs.items())
        gains = ", ".join(f"{kind} {times:.2f}" for kind, times in gain.items())
        print(
            f"round {number + 1}, frames/s: {rates}; all cores over one: {gains}", file=sys.stderr, flush=True
        )
        done.append(Round(runs, gain))
    return done


def ranges(rounds: list[Round]) -> dict[str, float]:
    """Prints the least and the greatest of each ratio over the rounds; returns them."""
    ratios = {
        "ours_over_loop": [done.runs["job"].rate / done.runs["loop"].rate for done in rounds],
        "ours_over_mediapipe": [done.runs["job"].rate / done.runs["mediapipe"].rate for done in rounds],
    }
    ratios |= {f"all_cores_{kind}": [done.gain[kind] for done in rounds] for kind in rounds[0].gain}
    figures: dict[str, float] = {}
    for name, values in ratios.items():
        print(f"{name:28} {min(values):.2f} to {max(values):.2f}")
        figures |= {f"{name}_least": min(values), f"{name}_most": max(values)}
    return figures


def speed_table(runs: dict[str, Run]) -> dict[str, float]:
    """Prints who took how long; returns the ratios and shares."""
    job, single, peer = runs["job"], runs["loop"], runs["mediapipe"]
    print(f"{'':28} {'frames':>8} {'seconds':>8} {'frames/s':>9} {'CPU ms/frame':>13}")
    for name, run in zip(("job on Ray", "plain loop", "MediaPipe Holistic"), runs.values(), strict=True):
        print(f"{name:28} {run.frames:8,} {run.seconds:8.1f} {run.rate:9.1f} {run.cpu_ms:13.1f}")
    useful = job.cpu["decode"] + job.cpu["model"] + single.cpu["decode"]
    figures = {
        "ours_over_loop": job.rate / single.rate,
        "ours_over_mediapipe": job.rate / peer.rate,
        "overhead_share": 1 - useful / (job.cpu["all"] + single.cpu["all"]),
        "overhead_share_with_ray": 1 - useful / job.cpu["tree"],
        "cpu_over_loop": job.cpu_ms / single.cpu_ms,
        "cpu_over_mediapipe": job.cpu_ms / peer.cpu_ms,
        "workers_busy": job.busy / (job.workers * job.seconds),
        "startup_seconds": job.startup,
    }
    print(f"CPU seconds of the job: decoding {job.cpu['decode'] + single.cpu['decode']:.1f}", end=", ")
    print(
        f"models {job.cpu['model']:.1f}, measuring in all {job.cpu['all'] + single.cpu['all']:.1f}", end=", "
    )
    print(f"all processes {job.cpu['tree']:.1f}")
    return figures


def distance_table(videos: list[Path]) -> dict[str, float]:
    """Prints how far from MediaPipe's landmarks ours are in each video; returns the means over videos."""
    rows = [distances(track(video)[0], found) for video, found in zip(videos, holistic(videos), strict=True)]
    names = ("all", *PARTS, "same")
    print(f"\n{'distance / person height':28}", " ".join(f"{name:>7}" for name in names))
    for video, row in zip(videos, rows, strict=True):
        print(f"{video.name:28}", " ".join(f"{row[name]:7.4f}" for name in names))
    means = {name: float(np.nanmean([row[name] for row in rows])) for name in names}
    print(f"{'mean over videos':28}", " ".join(f"{means[name]:7.4f}" for name in names))
    parts = {f"distance_{part}": means[part] for part in PARTS}
    return {"distance_over_height": means["all"], **parts, "same_body_share": means["same"]}


def usable(folder: Path, least: int) -> list[Path]:
    """The videos of a folder of at most 30 frames/s; exits where there are fewer than `least`."""
    videos = [path for path in sorted(folder.iterdir()) if path.is_file() and probe(path).rate <= MOST_RATE]
    if len(videos) < least:
        sys.exit(
            f"{folder} holds {len(videos)} videos of at most 30 frames/s, {least} are needed: two a round"
        )
    return videos


def main(data: Path | None = None, wholebody: Path | None = None, rounds: int = 3, copies: int = 6) -> None:
    """Compares curation with a plain loop and with MediaPipe.

    Args:
        data: Folder of videos, each used once; by default sample videos, several copies of each.
        wholebody: Folder with COCO-WholeBody's pictures and test_coco_wholebody.json, for OKS.
        rounds: How often the three take turns.
        copies: Copies of each sample video in all.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if data is None:
            fetch_samples(scratch / "samples")
            videos, alone = ([scratch / "samples" / n for n in names] for names in (SAMPLES, ONE_PERSON))
        else:
            videos = alone = usable(data, 2 * rounds)
        trial = scratch / "trial-video"
        trial.mkdir()
        shutil.copy(min(videos, key=lambda video: video.stat().st_size), trial)
        laid_out = lay_out(videos, copies if data is None else 1, rounds, scratch / "videos")
        done = race(laid_out, scratch, trial)
        runs = {name: Run() for name in done[0].runs}
        for one in done:
            for name, run in one.runs.items():
                runs[name].add(run)
        figures = {**speed_table(runs), **ranges(done), **distance_table(alone)}
    oks: Mapping[str, float | None] = dict.fromkeys(("oks_ours", "oks_mediapipe"))
    if wholebody is None:
        print(
            "\nOKS not measured: give --wholebody FOLDER (COCO-WholeBody pictures, test_coco_wholebody.json)"
        )
    else:
        print("\nOKS")
        oks = evaluate(wholebody)
    print(json.dumps({k: v if v is None else round(v, 4) for k, v in ({**figures, **oks}).items()}))


if __name__ == "__main__":
    tyro.cli(main)

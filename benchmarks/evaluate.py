"""Does the method hold over minutes? The mini model, its ablations and its peers, on people whose truth is known.

    python benchmarks/evaluate.py [--short] [--seeds 3] [--output build/evaluate]

For each length and seed every way to make the video gets the same picture, poses and caption, of a puppet that the
model never saw and a camera that stands still; then the method and its two ideas by how much of the person is seen,
and with a camera that moves. Measured by `posegen.evaluation`: curves over seconds against the truth,
their slope a minute, the last 10 s over the first, seams against motion-matched places inside segments, and how much
segments disagree where the reference's person hides the place. Brackets are 95 % bootstrap intervals over videos;
effects are paired, video by video. Each video's measurements are kept in the output folder, so an interrupted run goes
on; the last line is one JSON object.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from diffusers import FirstBlockCacheConfig

from benchmarks.mini import Case, Kind, Models
from benchmarks.mini import Options as MiniOptions
from benchmarks.peers import FreshNoise, Independent, Sequential, averaged_windows, costs, planned
from benchmarks.verdict import (
    CROSSFADE,
    EVERYWHERE,
    OURS,
    UNSHARED,
    Row,
    Table,
    print_goals,
    print_strata,
    print_table,
    print_thirds,
    write_curves,
    write_measurements,
)
from mini_model.puppets import ACTIONS, Puppet, kind_of, motion, render
from mini_model.puppets.calm import TRUNK, standing_like
from posegen.commands.generate import BUNDLED
from posegen.driving.skeleton import pose_distance
from posegen.evaluation.measure import Instruments, Measured, Silhouettes, Subject, measure
from posegen.evaluation.perceptual import PerceptualDistance
from posegen.longvideo.job import VideoJob
from posegen.longvideo.sampling import Guidance
from posegen.longvideo.segments import Segment

FIRST_SEED = 1_600_000
"""The training has those below a million."""
STRANGER = 50_000
"""How far a seed is from that of the wrong person."""
TRAINING_POSES = 400
"""Drawn of the training's motions, one each, to tell which driving poses are far from all of them."""
SHORT, FULL = (5.0, 20.0), (5.0, 15.0, 30.0, 60.0, 180.0)
ABLATED = 15.0
"""Seconds up to which ablations are made beside the main ways."""
MANY_STEPS, CACHE_THRESHOLD = 8, 0.1
"""Steps enough for sharing and for a cache to take a part of them; of the change of the first block's residual."""
STRATA = {
    "close-up": Kind(framing=0.3),
    "half-body": Kind(framing=0.55),
    "full-body": Kind(framing=1.0),
    "distant": Kind(framing=2.0),
    "moving camera": Kind(moving=True),
}
STRATUM_SECONDS = 10.0


@dataclass(frozen=True)
class Options:
    """Measure the mini model over minutes."""

    short: bool = False
    """5 and 20 s alone, of all kinds of pictures together."""
    seeds: int = 3
    """Videos of each length."""
    lengths: tuple[float, ...] | None = None
    """Seconds, in place of those."""
    model: Path = BUNDLED
    """Folder of the model."""
    output: Path = Path("build/evaluate")
    """Where measurements and curves go."""
    threads: int = 1


class Ways:
    """The ways to make a video of a case, by name: each returns its job and frames."""

    def __init__(self, models: Models, fresh: FreshNoise) -> None:
        self.models, self.fresh = models, fresh

    def main(self) -> dict[str, Callable[[Case], tuple[VideoJob, np.ndarray]]]:
        """Ours, without its two ideas, and the peers."""
        return {
            OURS: self.ours,
            UNSHARED: lambda case: self.ours(case, framing="off"),
            EVERYWHERE: lambda case: self.ours(case, framing=self._everywhere()),
            CROSSFADE: lambda case: self._planned(case, Independent),
            "peer: continued from the last frames": lambda case: self._planned(
                case, Sequential, framing="off"
            ),
            "peer: independent segments": lambda case: self._planned(case, Independent, framing="off"),
            "peer: windows averaged": self._averaged,
        }

    def ablations(self) -> dict[str, Callable[[Case], tuple[VideoJob, np.ndarray]]]:
        """One thing changed each."""
        return {
            "anchor's person not in the keys": lambda case: self.ours(case, keep_person=False),
            "shared everywhere, no mask": lambda case: self.ours(case, foreground="none"),
            "mask from the subject's word": lambda case: self.ours(case, foreground="subject"),
            "mask from the truth": lambda case: self.ours(case, foreground="mask", mask=case.masks()),
            "other noise for each segment": lambda case: self._made(self.fresh, self._job(case)),
            "published plan": lambda case: self.ours(case, planner="published"),
            "guidance 2": lambda case: self._guided(case, Guidance(2.0)),
            "guidance 2 at noise 0.2 to 0.9": lambda case: self._guided(case, Guidance(2.0, (0.2, 0.9))),
            "8 steps": lambda case: self.ours(case, num_inference_steps=MANY_STEPS),
            "8 steps, not shared": lambda case: self.ours(
                case, num_inference_steps=MANY_STEPS, framing="off"
            ),
            "8 steps, First Block Cache": self._cached,
        }

    def ours(self, case: Case, **changed: Any) -> tuple[VideoJob, np.ndarray]:
        """The method as it is, or with some options of `PoseGenPipeline.job` changed."""
        return self._made(self.models.pipeline, self._job(case, **changed))

    def _everywhere(self) -> str:
        steps, blocks = self.models.settings.num_inference_steps, len(self.models.pipeline.transformer.blocks)
        return f"0:{steps},0:{blocks}"

    def _job(self, case: Case, **options: Any) -> VideoJob:
        clip = case.clip
        return self.models.pipeline.job(case.picture, clip.keypoints, clip.caption, **options)

    def _made(self, pipeline: Any, job: VideoJob) -> tuple[VideoJob, np.ndarray]:
        return job, np.concatenate(list(pipeline.generate(job)))

    def _planned(self, case: Case, kind: type, **options: Any) -> tuple[VideoJob, np.ndarray]:
        job = self._job(case, **options)
        return self._made(self.models.pipeline, replace(job, plan=planned(kind, job.plan)))

    def _guided(self, case: Case, guidance: Guidance) -> tuple[VideoJob, np.ndarray]:
        return self._made(self.models.pipeline, replace(self._job(case), guidance=guidance))

    def _cached(self, case: Case) -> tuple[VideoJob, np.ndarray]:
        """Steps whose first block changes little take over what the other blocks did in the step before."""
        transformer = self.models.pipeline.transformer
        transformer.enable_cache(FirstBlockCacheConfig(threshold=CACHE_THRESHOLD))
        try:
            return self.ours(case, num_inference_steps=MANY_STEPS)
        finally:
            transformer.disable_cache()

    def _averaged(self, case: Case) -> tuple[VideoJob, np.ndarray]:
        job = self._job(case, framing="off")
        job = replace(job, plan=planned(Independent, job.plan))
        return job, averaged_windows(self.models.pipeline, job)


class Bench:
    """Measures each way on each case once, and keeps what was found in a folder."""

    def __init__(self, options: Options) -> None:
        mini = MiniOptions(model=options.model)
        self.models = Models(mini)
        self.ways = Ways(self.models, FreshNoise.from_pretrained(options.model))
        self.folder = options.output / self.models.pipeline.model_id()[:12]
        self.instruments = Instruments(perceptual=PerceptualDistance())
        self.training = np.stack([motion(seed, 1, size=self.size)[0] for seed in range(TRAINING_POSES)])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the videos."""
        return tuple(self.models.settings.size)

    def row(self, seconds: float, seed: int, kind: Kind | None = None) -> Iterator[Row]:
        """Each way's figures and costs for one video; of a kind of pictures, the method and its two ideas alone."""
        rate = self.models.settings.rate
        case = Case.of(FIRST_SEED + seed, round(seconds * rate), rate, self.size, kind or Kind())
        ways = self.ways.main()
        if kind:
            ways = {name: ways[name] for name in (OURS, UNSHARED, EVERYWHERE, CROSSFADE)}
        elif seconds <= ABLATED:
            ways |= self.ways.ablations()
        segments = self.ways._job(case).plan.segments
        measured = self._measuring(case, seed)
        through_codec = self.models.through_codec
        yield "the true video through the codec", measured(through_codec(case.clip.frames), segments), {}
        other = through_codec(stranger(case, seed, rate))
        yield "the wrong person through the codec", measured(other, segments), {}
        for name, make in ways.items():
            job, frames = make(case)
            cost = costs(self.models.pipeline, job, together="averaged" in name)
            yield name, measured(frames, job.plan.segments), cost

    def fill(self, table: Table, seconds: float, seeds: int, kind: Kind | None = None) -> None:
        """Measures the videos of a length that a table does not have yet."""
        for seed in range(seeds):
            if not table.has(seconds, seed):
                began = time.monotonic()
                table.add(seconds, seed, list(self.row(seconds, seed, kind)))
                took = f"{table.folder.name}: {seconds:g} s, seed {seed}: {time.monotonic() - began:.0f} s"
                print(took, file=sys.stderr, flush=True)

    def _measuring(self, case: Case, seed: int) -> Callable[[np.ndarray, tuple[Segment, ...]], Measured]:
        """What measures videos of a case, given their frames and segments."""
        clip, pictured = case.clip, standing_like(FIRST_SEED + seed, case.clip.keypoints)
        behind = self.models.through_codec(clip.background[:1])[0]
        middle, there = (poses[..., TRUNK, :2].mean(axis=-2) for poses in (clip.keypoints, pictured))
        poses = {
            "novelty": np.array([np.nanmin(pose_distance(pose, self.training)) for pose in clip.keypoints]),
            "away": np.linalg.norm(middle - there, axis=-1) / case.picture.shape[1],
        }

        def measured(frames: np.ndarray, segments: tuple[Segment, ...]) -> Measured:
            subject = Subject(
                str(seed),
                frames,
                self.models.settings.rate,
                case.picture,
                pictured,
                clip.keypoints,
                segments,
                clip.frames,
                Silhouettes(case.masks(), behind, case.colours) if case.scene.still else None,
            )
            found = measure(subject, self.instruments)
            for name, values in poses.items():
                found.curves[name] = np.array([np.nanmean(values[at]) for at in subject.seconds()])
            return found

        return measured


def stranger(case: Case, seed: int, rate: float) -> np.ndarray:
    """The case's video with another person in it."""
    clip, other = case.clip, FIRST_SEED + seed + STRANGER
    size = (case.picture.shape[1], case.picture.shape[0])
    drawn = render(Puppet.sample(other), case.scene, clip.keypoints, size, rate, ACTIONS[kind_of(other)])
    return drawn.frames


def run(options: Options) -> dict[str, Any]:
    """Measures, prints the tables and what holds, and returns the figures."""
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    table = Table(bench.folder)
    for seconds in options.lengths or (SHORT if options.short else FULL):
        bench.fill(table, seconds, options.seeds)
    strata = {} if options.short else {name: Table(bench.folder / name) for name in STRATA}
    for name, stratum in strata.items():
        bench.fill(stratum, STRATUM_SECONDS, options.seeds, STRATA[name])
    figures = {f"{seconds:g}": print_table(table, seconds) for seconds in table.lengths()}
    print_thirds(
        table, "novelty", "distance of the driving poses to the nearest of 400 training poses", ".3f"
    )
    print_thirds(table, "away", "how far they are from where the picture shows them, of its width", ".0%")
    write_curves(table, options.output / "curves.html")
    write_measurements(table, options.output / "measurements.parquet")
    return {"tables": figures, "strata": print_strata(strata), "goals": print_goals(table)}


def main() -> None:
    """The command line."""
    figures = run(tyro.cli(Options, description=__doc__))
    print(json.dumps(without_nan(figures)))


def without_nan(figures: Any) -> Any:
    """The same with None for what could not be measured, which JSON has a word for."""
    if isinstance(figures, dict):
        return {name: without_nan(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [without_nan(value) for value in figures]
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures


if __name__ == "__main__":
    main()

"""The mini model on puppets and motions it has never seen, against two baselines and against what it cannot exceed.

    python benchmarks/mini.py [--clips 24] [--long 6] [--model posegen/mini/model]

Each clip has a puppet, a place and a motion of a seed from 1,000,000 on, with a still camera, as no input tells how one
moves. The model is given a picture of the puppet standing in the place, the poses and a caption; the baselines are that
picture repeated, and the base model without adapters continuing it; differences to them are taken clip by clip.
Silhouettes are found by colour alone (`find_person`): the rows "truth" and "codec" say what that finds
in the true video and in the true video after the codec, the most any row below them can reach. Long videos have three
segments (base, bridge, base), with the background shared and not; a seam of 1 is none
(`posegen.evaluation.seams`), drift is in Lab to the first frame. Brackets are 95 % bootstrap intervals over clips. A
picture of poses, ours and truth is written to --sheet. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from diffusers import WanTransformer3DModel

from mini_model.puppets import ACTIONS, Puppet, PuppetClip, Scene, kind_of, motion, reference, render
from posegen.commands.generate import BUNDLED
from posegen.evaluation.background import background_error, grown
from posegen.evaluation.fidelity import psnr
from posegen.evaluation.identity import identity_error
from posegen.evaluation.seams import matched_places, seam_figures
from posegen.evaluation.silhouettes import find_person, iou, person_colours
from posegen.evaluation.statistics import Interval, bootstrap
from posegen.longvideo.conditions import (
    decode_latents,
    draw_poses,
    encode_frames,
    encode_text,
    pose_condition,
)
from posegen.longvideo.sampling import flow_shift, initial_noise, schedule
from posegen.longvideo.segments import Plan
from posegen.pipeline import PoseGenPipeline

SHORT_SEEDS, LONG_SEEDS = 1_000_000, 1_500_000
"""The first seed of each; the training has those below a million."""
SHOWN, SHOWN_FRAMES = 4, 9
"""In the sheet: clips, and frames of each."""
HEADS = {
    "psnr": "PSNR, dB",
    "iou": "silhouette IoU",
    "identity": "identity error, Lab",
    "seam": "seam",
    "drift": "background drift, Lab",
}
Row = dict[str, float]


@dataclass(frozen=True)
class Options:
    """Measure the mini model."""

    clips: int = 24
    """Short clips, of one segment."""
    long: int = 6
    """Long clips, of three segments, each made twice."""
    model: Path = BUNDLED
    """Folder of the model."""
    steps: int | None = None
    """Denoising steps; by default the model's."""
    guidance_scale: float | None = None
    """By default the model's."""
    sheet: Path = Path("build/mini_sheet.png")
    """Where the picture goes."""
    threads: int = 1


@dataclass(frozen=True)
class Kind:
    """What a clip shows.

    framing: the share of the body that the picture's height shows, above 1 where there is room around it; by default
    follows from the seed and the motion. moving: whether the camera does.
    """

    framing: float | None = None
    moving: bool = False

    def keypoints(self, seed: int, frames: int, rate: float, size: tuple[int, int]) -> np.ndarray:
        """The motion of a seed (T, 133, 3), of size (width, height), a distant person on the ground in the middle."""
        shown = None if self.framing is None else min(self.framing, 1.0)
        points = motion(seed, frames, rate, size, shown)
        if self.framing is not None and self.framing > 1:
            ground = np.array([size[0] / 2, 0.9 * size[1]], np.float32)
            points[..., :2] = ground + (points[..., :2] - ground) / self.framing
        return points


@dataclass(frozen=True)
class Case:
    """A validation clip, its place, the picture (H, W, 3) given of it, and the colours of who is in it."""

    clip: PuppetClip
    scene: Scene
    picture: np.ndarray
    colours: np.ndarray

    @classmethod
    def of(cls, seed: int, frames: int, rate: float, size: tuple[int, int], kind: Kind = Kind()) -> Case:
        puppet, scene = Puppet.sample(seed), replace(Scene.sample(seed), still=not kind.moving)
        keypoints = kind.keypoints(seed, frames, rate, size)
        clip = render(puppet, scene, keypoints, size, rate, ACTIONS[kind_of(seed)])
        picture = reference(puppet, scene, seed, size, like=keypoints)
        return cls(clip, scene, picture, person_colours(picture, clip.background[0]))

    def masks(self) -> np.ndarray:
        """The silhouettes as frames (T, H, W, 3) uint8, white on black."""
        return np.repeat(self.clip.silhouettes[..., None], 3, axis=3).astype(np.uint8) * 255

    def measure(self, video: np.ndarray, background: np.ndarray) -> Row:
        """The figures of a video; background (H, W, 3): what it would show without the person."""
        clip = self.clip
        return {
            "psnr": psnr(video, clip.frames),
            "iou": iou(find_person(video, background, self.colours), clip.silhouettes),
            "identity": identity_error(video, clip.frames, clip.keypoints, clip.silhouettes),
        }

    def measure_long(self, video: np.ndarray, background: np.ndarray, plan: Plan) -> Row:
        """The same, and those that a video of several segments has beside."""
        person = grown(self.clip.silhouettes)
        drift = background_error(video, person, video[0], person[0])[plan.segments[-1].start :]
        places = matched_places(self.clip.keypoints, plan.segments)
        seams = [figure.ratio for figure in seam_figures(video, places) if figure.name == "difference"]
        return self.measure(video, background) | {
            "seam": float(np.mean(seams)) if seams else np.nan,
            "drift": float(np.nanmean(drift)),
        }


class Models:
    """The pipeline, and its base model without adapters."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.pipeline = PoseGenPipeline.from_pretrained(options.model)
        self.wan = WanTransformer3DModel.from_pretrained(options.model, subfolder="transformer").eval()
        self.vae, self.settings = self.pipeline.vae, self.pipeline.config

    def ours(self, case: Case, **sharing: Any) -> tuple[np.ndarray, Plan]:
        """The video (T, H, W, 3) uint8 and its plan."""
        options = self.options
        job = self.pipeline.job(
            case.picture,
            case.clip.keypoints,
            case.clip.caption,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance_scale,
            **sharing,
        )
        return np.concatenate(list(self.pipeline.generate(job))), job.plan

    @torch.no_grad()
    def base(self, case: Case) -> np.ndarray:
        """The picture continued by the base model: image-to-video, knowing neither the pose nor a reference."""
        known = torch.full(
            (1, *case.clip.frames.shape), 127.5
        )  # grey where nothing is given, as in its training
        known[:, 0] = torch.from_numpy(case.picture)
        given = torch.zeros(known.shape[:2], dtype=torch.bool)
        given[:, 0] = True
        condition = pose_condition(self.vae, known, given)
        text = encode_text(self.pipeline.tokenizer, self.pipeline.text_encoder, [case.clip.caption])
        latents = initial_noise(0, (1, self.vae.config.z_dim, *condition.shape[2:]))
        steps = self.options.steps or self.settings.num_inference_steps
        for sigma, following in pairwise(schedule(steps, flow_shift(self.pipeline.scheduler.config)).sigmas):
            clean = self.wan(
                torch.cat([latents, condition], dim=1), torch.tensor([1000 * sigma]), text, return_dict=False
            )[0]
            latents = clean + following / sigma * (latents - clean)
        return decode_latents(self.vae, latents)[0].numpy()

    @torch.no_grad()
    def through_codec(self, frames: np.ndarray) -> np.ndarray:
        """A video (T, H, W, 3) uint8 encoded and decoded, the last frame repeated up to 4k + 1."""
        padded = np.concatenate([frames, np.repeat(frames[-1:], -(len(frames) - 1) % 4, axis=0)])
        return decode_latents(self.vae, encode_frames(self.vae, padded[None]))[0].numpy()[: len(frames)]


def short(models: Models, case: Case) -> tuple[dict[str, Row], np.ndarray]:
    """Figures of one segment by what made it, and our video."""
    frames, sharp = len(case.clip.frames), case.clip.background[0]
    behind = models.through_codec(case.clip.background)[-1]
    ours = models.ours(case)[0]
    rows = {
        "truth": {"iou": case.measure(case.clip.frames, sharp)["iou"]},
        "codec": case.measure(models.through_codec(case.clip.frames), behind),
        "ours": case.measure(ours, behind),
        "picture": case.measure(np.repeat(case.picture[None], frames, axis=0), sharp),
        "base": case.measure(models.base(case), behind),
    }
    for baseline in ("picture", "base"):
        gained = {name: value - rows[baseline][name] for name, value in rows["ours"].items()}
        rows[f"ours - {baseline}"] = gained
    return rows, ours


def long(models: Models, case: Case) -> dict[str, Row]:
    """Figures of three segments, with the background shared and not."""
    behind = models.through_codec(case.clip.background)[-1]
    shared, plan = models.ours(case)
    apart, _ = models.ours(case, framing="off")
    codec = models.through_codec(case.clip.frames)
    videos = {"codec": codec, "shared": shared, "not shared": apart}
    return {name: case.measure_long(video, behind, plan) for name, video in videos.items()}


def run(options: Options) -> dict[str, Any]:
    """Measures, writes the sheet, prints the tables and returns the figures."""
    torch.set_num_threads(options.threads)
    models = Models(options)
    settings = models.settings
    length = settings.segment_frames
    three = 3 * length - settings.head - settings.tail

    def cases(first: int, count: int, frames: int) -> Iterator[Case]:
        for seed in range(first, first + count):
            yield Case.of(seed, frames, settings.rate, tuple(settings.size))

    rows: list[Any] = []
    shown: list[Any] = []
    for case in watched(cases(SHORT_SEEDS, options.clips, length), options.clips, "short clip"):
        row, video = short(models, case)
        rows.append(row)
        if len(shown) < SHOWN:
            shown.append((case, video))
    write_sheet(shown, options.sheet, settings.pose_oversampling)
    figures: dict[str, Any] = {"clips": options.clips, "long_clips": options.long}
    figures["short"] = table("One segment", rows)
    longs = watched(cases(LONG_SEEDS, options.long, three), options.long, "long clip")
    figures["long"] = table("Three segments", [long(models, case) for case in longs])
    return figures


def watched(cases: Iterator[Case], count: int, what: str) -> Iterator[Case]:
    """The same cases, with a line on how long the rest will take after each."""
    began = time.monotonic()
    for done, case in enumerate(cases, 1):
        yield case
        left = (time.monotonic() - began) / done * (count - done)
        print(f"{what} {done}/{count}, {left:.0f} s left", file=sys.stderr, flush=True)


def table(title: str, rows: list[dict[str, Row]]) -> dict[str, dict[str, Interval]]:
    """Prints means and intervals over the clips, a line for each video's maker, and returns them."""
    if not rows:
        return {}
    names = [*dict.fromkeys(name for row in rows[0].values() for name in row)]
    print(f"\n{title:14}" + "".join(f"{HEADS[name]:>26}" for name in names))
    figures: dict[str, dict[str, Interval]] = {}
    for maker, measured in rows[0].items():
        columns = {name: np.array([row[maker][name] for row in rows]) for name in measured}
        figures[maker] = {name: bootstrap(column) for name, column in columns.items()}
        cells = [str(figures[maker][name]) if name in measured else "" for name in names]
        print(f"{maker:14}" + "".join(f"{text:>26}" for text in cells), flush=True)
    return figures


def write_sheet(shown: list[tuple[Case, np.ndarray]], path: Path, oversampling: int) -> None:
    """A PNG: for each case a row of poses, of ours and of the truth, each beginning with the given picture."""
    rows = []
    for case, video in shown:
        size = case.picture.shape[1], case.picture.shape[0]
        frames = np.linspace(0, len(video) - 1, SHOWN_FRAMES).round().astype(int)
        poses = draw_poses(case.clip.keypoints[frames], size, oversampling)
        for pictures in (poses, video[frames], case.clip.frames[frames]):
            rows.append(np.concatenate([case.picture, *pictures], axis=1))
    sheet = np.concatenate(rows)[..., ::-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(sheet, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST))


def main() -> None:
    figures = run(tyro.cli(Options, description=__doc__))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

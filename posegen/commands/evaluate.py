"""posegen evaluate: a video, the picture and the driving video it was made from -> a report of how well it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from posegen.commands.progress import say

if TYPE_CHECKING:
    from posegen.evaluation.measure import Instruments


@dataclass(frozen=True)
class Evaluate:
    """Measure identity, background, seams, pose and fidelity of a video over its whole length, as a report."""

    video: Annotated[Path, tyro.conf.Positional]
    """The video to measure."""
    reference: Path
    """The picture of the person it was made from."""
    driving: Path
    """The driving video."""
    truth: Path | None = None
    """The true video, where there is one, such as the driving video of the same person: adds PSNR, SSIM and others."""
    silhouettes: Path | None = None
    """Video of where the person truly is, white on black; with --background adds the silhouette IoU."""
    background: Path | None = None
    """Picture of the place without anybody."""
    output: Path = Path("evaluation")
    """Folder for report.html, measurements.parquet and summary.md."""
    segments: tuple[int, int, int] | None = None
    """Longest segment, head and tail that the video was made with, such as 81 21 20: adds the seams."""
    planner: Literal["fitted", "published"] = "fitted"
    """The planner that it was made with."""
    align: Literal["reference", "proportions", "none"] = "reference"
    """How the driving person was laid onto the picture's."""
    fit: Literal["crop", "pad"] = "crop"
    """How the picture was put into the size."""
    poses: Literal["blazepose", "dwpose", "sapiens"] = "blazepose"
    """Pose estimator of picture and driving video."""
    pose_weights: str | None = None
    """Its weights (dwpose, sapiens)."""
    judge: Literal["blazepose", "dwpose", "sapiens", "none"] = "blazepose"
    """Pose estimator that looks at the video; best another one than drove it."""
    judge_weights: str | None = None
    """Its weights (dwpose, sapiens)."""


def evaluate(options: Evaluate) -> None:
    """Runs the command; raises ValueError or WeightsError, each a sentence, where it cannot be done."""
    from posegen.driving.poses import load_estimator
    from posegen.evaluation.inputs import Inputs
    from posegen.evaluation.measure import Instruments, measure
    from posegen.evaluation.report import write_report

    files = (options.video, options.reference, options.driving, options.truth)
    for path in (*files, options.silhouettes, options.background):
        if path is not None and not path.is_file():
            raise ValueError(f"{path}: no such file; check the path.")
    inputs = Inputs(
        options.video,
        options.reference,
        options.driving,
        options.truth,
        options.silhouettes,
        options.background,
        options.segments,
        options.planner,
        options.align,
        options.fit,
    )
    instruments = load_instruments(options)
    subject, driver = inputs.load(load_estimator(options.poses, options.pose_weights))
    say(f"measuring {len(subject.keypoints)} frames")
    measured = measure(subject, instruments)
    own = measure(driver, Instruments(faces=instruments.faces))
    media = {"the picture": options.reference, "the driving video": options.driving}
    media |= {"the video": options.video} | ({"the truth": options.truth} if options.truth else {})
    write_report(options.output, measured, own, media, _settings(options))
    for name, value in measured.summary().items():
        if name in measured.curves:
            print(f"{name:18} {value:8.3g}")
    print(f"report: {options.output / 'report.html'}")


def load_instruments(options: Evaluate) -> Instruments:
    """What measures; what cannot be had is left out, as the report then says."""
    from posegen.common.weights import WeightsError
    from posegen.driving.poses import load_estimator
    from posegen.evaluation.faces import FaceDistance
    from posegen.evaluation.measure import Instruments
    from posegen.evaluation.perceptual import PerceptualDistance

    judge = None
    if options.judge != "none":
        judge = load_estimator(options.judge, options.judge_weights)
    perceptual, faces = None, None
    try:
        perceptual = PerceptualDistance() if options.truth else None
    except WeightsError as error:
        say(f"without the perceptual distance: {error}")
    try:
        faces = FaceDistance()
    except WeightsError as error:
        say(f"without faces: {error}")
    return Instruments(judge, perceptual, faces)


def _settings(options: Evaluate) -> str:
    if options.judge == "none":
        return f"Driven by poses of {options.poses}."
    same = (
        " It drove the video too, so it may repeat its own errors." if options.judge == options.poses else ""
    )
    return f"Driven by poses of {options.poses}, judged by {options.judge}.{same}"

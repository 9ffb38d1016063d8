"""The settings of an evaluation; the command line is made from these fields and their comments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from posegen.dataset import content_id


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a folder of generated videos: identity, background, seams, pose and fidelity over their whole length."""

    input: str
    """Folder of the videos: a local path, s3://bucket/folder or gs://bucket/folder. NAME.mp4 goes with
    NAME.reference.png (or .jpg), NAME.driving.mp4 and, where there is one, NAME.truth.mp4."""
    output: str
    """Folder for the tables and the summary; a run that was interrupted goes on where it stopped."""
    rows: str | None = None
    """CSV or Parquet file in the input folder in place of those names: columns video, reference, driving and, if there
    is one, truth, each a path below the input folder."""
    segments: tuple[int, int, int] | None = None
    """Longest segment, head and tail that the videos were made with, such as 81 21 20: adds the seams."""
    planner: Literal["fitted", "published"] = "fitted"
    """The planner that they were made with."""
    align: Literal["reference", "proportions", "none"] = "reference"
    """How driving people were laid onto the pictures'."""
    poses: Literal["blazepose", "dwpose", "sapiens"] = "blazepose"
    """Pose estimator of pictures and driving videos."""
    pose_weights: str | None = None
    """Its weights (dwpose, sapiens)."""
    judge: Literal["blazepose", "dwpose", "sapiens"] = "blazepose"
    """Pose estimator that looks at the videos; best another one than drove them."""
    judge_weights: str | None = None
    """Its weights (dwpose, sapiens)."""
    faces: bool = False
    """Compare faces, for videos of real people; takes the packages of posegen[faces]."""
    fvd: str | None = None
    """I3D's TorchScript file (i3d_torchscript.pt): adds the Fréchet video distance of all videos that have a truth. The
    file is a program: take it from somebody you trust."""
    workers: int | None = None
    """Processes that measure; by default one for each CPU (or for each share of a GPU) of the cluster."""
    gpus_per_worker: float = 0.0
    """Share of a GPU for each measuring process."""
    retry_failed: bool = False
    """Try videos again that failed in an earlier run."""

    @property
    def version(self) -> str:
        """Names the settings that measurements depend on."""
        poses = (self.poses, self.pose_weights, self.judge, self.judge_weights, self.faces)
        return content_id("evaluate", 2, self.segments, self.planner, self.align, *poses, self.fvd)

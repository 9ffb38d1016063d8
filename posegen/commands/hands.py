"""posegen hands: the hand video of a driving video, by Sapiens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posegen.commands.output import check_output
from posegen.common.progress import Progress

if TYPE_CHECKING:
    from posegen.video import VideoInfo

CHUNK = 16  # frames read and seen at once


@dataclass(frozen=True)
class Hands:
    """Make the hand video of a driving video: surface normals of the hands on black, for generate --hands.

    The networks are Sapiens' in ONNX; their licence (CC BY-NC 4.0 or Sapiens', by the file) is not for every use.
    """

    video: Path
    """Driving video."""
    normals: str
    """File, folder, URI or hub name of Sapiens' network of surface normals."""
    segmentation: str
    """The same of its network of 28 body parts."""
    output: Path = Path("hands.mp4")
    """The video to write, in step with the driving video."""
    cuda: bool = False
    """Compute on a GPU, with onnxruntime-gpu."""


def hands(options: Hands) -> None:
    """Runs the command; raises ValueError or WeightsError, a sentence, where it cannot be done."""
    from posegen.driving.poses.runtime import on_cpu, on_cuda
    from posegen.driving.poses.sapiens import SapiensNormals, SapiensSegmentation, hand_video
    from posegen.video import probe, save_video

    check_output(options.output)
    info = probe(options.video)
    open_model = on_cuda if options.cuda else on_cpu
    networks = (
        SapiensNormals(options.normals, open_model),
        SapiensSegmentation(options.segmentation, open_model),
    )
    progress = Progress("hands", "frames", len(info.frame_times))
    save_video(
        (hand_video(frames, *networks) for frames in _counted(info, progress)), options.output, info.rate
    )
    progress.end()
    print(f"{options.output}: {len(info.frame_times)} frames of {info.width}x{info.height}")


def _counted(info: VideoInfo, progress: Progress) -> Iterator[np.ndarray]:
    from posegen.video import read_frames

    for frames in read_frames(info, range(len(info.frame_times)), chunk=CHUNK):
        yield frames
        progress.add(len(frames))

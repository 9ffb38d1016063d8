"""Video files in and out on one exact clock: which frame is shown when, upright, written reproducibly."""

from posegen.video.container import VideoError
from posegen.video.decode import read_frames
from posegen.video.encode import encode
from posegen.video.info import VideoInfo, sample_indices
from posegen.video.probe import probe

__all__ = ["VideoError", "VideoInfo", "encode", "probe", "read_frames", "sample_indices"]

"""Video files in and out, on one exact clock: which frame is shown when, read upright, written reproducibly."""

from posegen.video.container import VideoError
from posegen.video.decode import read_frames
from posegen.video.encode import encode
from posegen.video.probe import VideoInfo, probe, sample_indices

__all__ = ["VideoError", "VideoInfo", "encode", "probe", "read_frames", "sample_indices"]

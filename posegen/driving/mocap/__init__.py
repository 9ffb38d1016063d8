"""Motion capture as a driver: BVH files, their skeletons as keypoints, long motions from short ones."""

from posegen.driving.mocap.bvh import BvhError, read_bvh
from posegen.driving.mocap.camera import Camera
from posegen.driving.mocap.driver import frame_count, read_motion
from posegen.driving.mocap.join import joined
from posegen.driving.mocap.motion import Motion, resampled

__all__ = [
    "SUFFIX",
    "BvhError",
    "Camera",
    "Motion",
    "frame_count",
    "joined",
    "read_bvh",
    "read_motion",
    "resampled",
]

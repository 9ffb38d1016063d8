"""A BVH file -> the poses that drive a video."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from posegen.driving.driving_video import Driving
from posegen.driving.mocap.body import body_of, up_axis
from posegen.driving.mocap.bvh import BvhError, read_bvh
from posegen.driving.mocap.camera import Camera
from posegen.driving.mocap.join import joined
from posegen.driving.mocap.motion import resampled


def read_motion(
    path: str | Path,
    rate: float,
    seconds: float | None = None,
    names: Mapping[str, str] | None = None,
    camera: Camera | None = None,
) -> Driving:
    """The poses of a captured motion at `rate` frames/s, as a camera sees them.

    seconds: how long it goes on, again and again where it is shorter; by default it is seen once. names: what joints
    are, for skeletons that are not known, see `names.name_joints`. Raises BvhError, a sentence.
    """
    motion = resampled(read_bvh(path), rate)
    try:
        if seconds is not None:
            motion = joined([motion], seconds, up_axis(motion, names))
        camera = camera or Camera()
        return Driving(camera.keypoints(body_of(motion, names), rate), camera.size)
    except ValueError as error:
        raise BvhError(f"{path}: {error}") from error


def frame_count(path: str | Path, rate: float, seconds: float | None = None) -> int:
    """How many poses `read_motion` gives."""
    return max(1, round(seconds * rate)) if seconds is not None else len(resampled(read_bvh(path), rate))

"""A driving video of any size and rate -> the poses of its main person, where the picture's person stands.

The video is sampled at the model's rate on the exact clock of `posegen.video`, so a pose a frame is all that is kept of
it. The main person is who is largest for longest (main_person.py), and where several are followed a person by the word
of other networks (humans.py). Frames without them, and gaps of the video, are filled in and reported: between two seen
frames joints move evenly, at the ends the nearest pose stays.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from posegen.driving.alignment import Fit, Placed, fit, fit_picture, moved, outside, placements
from posegen.driving.humans import HumanEvidence
from posegen.driving.main_person import Track, main_tracks, poses
from posegen.driving.poses import PoseEstimator, load_estimator
from posegen.driving.proportions import with_proportions
from posegen.video import VideoError, VideoInfo, probe, read_frames, require_continuous, sample_indices
from posegen.video.info import TOLERANCE

PATIENCE_S = 1.0
"""Seconds for which a person who is out of sight is waited for before another one is followed."""
LOOKS = 8
"""Frames of a track in which other networks are asked whether it is a person; as curation looks at a clip."""
MOSTLY_OUTSIDE = 0.2
"""Share of frames with most of the person outside the picture from which that is told."""
REDUCED = (1, 2, 4)
"""How many times smaller a picture is looked at, one after the other, until somebody is found."""

Align = Literal["reference", "proportions", "none"]


@dataclass(frozen=True)
class Driving:
    """Poses of one person at an even rate.

    keypoints: (T, 133, 3) float32 x, y in pixels of a picture of `size` (width, height), confidence 0..1; never NaN.
    gaps: spans [start, stop) of frames in which nobody was seen and the pose is filled in. others: frames from which
    somebody else is followed, or the same person after a cut or a long pause.
    """

    keypoints: np.ndarray
    size: tuple[int, int]
    gaps: tuple[tuple[int, int], ...] = ()
    others: tuple[int, ...] = ()

    def notes(self, rate: float) -> list[str]:
        """What who asked for the video should know of these poses at `rate` frames/s, a sentence each."""
        found = []
        if self.gaps:
            spans = ", ".join(f"{start / rate:.1f} to {stop / rate:.1f} s" for start, stop in self.gaps)
            found.append(
                f"Nobody was seen at {spans}; poses there are filled in from those before and after."
            )
        if self.others:
            times = ", ".join(f"{frame / rate:.1f} s" for frame in self.others)
            found.append(
                f"At {times} the person who is followed changes, or is the same one after a cut; give a video of one "
                "person if that is not wanted."
            )
        return found


class VideoFrames:
    """The frames of a video file at an even rate and one size, read when they are asked for.

    Indexed by an array of frame numbers it gives their (n, height, width, 3) uint8 RGB; `len` counts frames.
    """

    def __init__(self, path: str | Path, rate: float, size: tuple[int, int]) -> None:
        self._info = probe(path)
        self._size = size
        self._shown = frame_indices(self._info, rate)

    def __len__(self) -> int:
        return len(self._shown)

    def __getitem__(self, frames: np.ndarray) -> np.ndarray:
        distinct, place = np.unique(self._shown[frames], return_inverse=True)
        return np.concatenate(list(read_frames(self._info, distinct, self._size)))[place]

    def tobytes(self) -> bytes:
        """The file's bytes, which tell these frames from others."""
        return Path(self._info.path).read_bytes()


def frame_indices(info: VideoInfo, rate: float) -> np.ndarray:
    """The indices (T,) of the frames that a whole video shows at `rate` frames/s.

    Raises `VideoError` where it has a gap of over 10 s.
    """
    require_continuous(info)
    return sample_indices(info, 0, info.duration, rate)


def read_driving(
    path: str | Path, rate: float, estimator: PoseEstimator, seconds: float | None = None
) -> Driving:
    """The poses of a video's main person at `rate` frames/s; the estimator is reset.

    seconds: the longest that the video may be by its frames' own times, whatever its container states. Raises
    `VideoError` where it is longer or has a gap of over 10 s, before a picture is decoded, and where it cannot be read
    or shows nobody.
    """
    info = probe(path)
    shown = frame_indices(info, rate)
    if seconds is not None and info.duration > seconds + TOLERANCE:
        raise VideoError(f"{path}: it is {info.duration:.1f} s long; give at most {seconds:g} s.")
    estimator.reset()
    people = [present for frames in read_frames(info, shown) for present in estimator(frames)]
    followed = main_tracks(people, round(PATIENCE_S * rate), info.height, partial(_evidence, info, shown))
    keypoints = poses(followed, len(people))
    keypoints[np.arange(len(shown)) / rate + TOLERANCE > info.frame_ends[shown]] = np.nan
    try:
        keypoints, gaps = fill_gaps(keypoints)
    except ValueError as error:
        raise VideoError(f"{path}: {error}") from error
    others = tuple(track.frames[0] for track in followed[1:])
    return Driving(keypoints, (info.width, info.height), gaps, others)


def _evidence(info: VideoInfo, shown: np.ndarray, track: Track) -> float:
    """How sure other networks are that a track through the frames `shown` is of a human being, 0..1."""
    looks = np.unique(np.linspace(0, len(track.frames) - 1, LOOKS).round().astype(int))
    frames = read_frames(info, shown[[track.frames[look] for look in looks]])
    seen = zip(chain.from_iterable(frames), looks, strict=True)
    return float(np.mean([_networks()(frame, track.people[look]) for frame, look in seen]))


@cache
def _networks() -> HumanEvidence:
    return HumanEvidence()


def picture_pose(picture: np.ndarray, estimator: PoseEstimator) -> np.ndarray:
    """The pose (133, 3) of the main person in a picture (H, W, 3) uint8; ValueError where nobody is seen.

    An estimator may miss at one size whom it sees at another, so a picture of nobody is looked at smaller, too.
    """
    size = picture.shape[1], picture.shape[0]
    for reduced in REDUCED:
        smaller = max(1, size[0] // reduced), max(1, size[1] // reduced)
        estimator.reset()
        if people := estimator(fit_picture(picture, smaller)[None])[0]:
            return fit(smaller, size).keypoints(people[0].keypoints)
    raise ValueError(
        'No person is found in the picture: choose a clearer one, or align="none" if the driving video already '
        "shows its person where the picture does."
    )


def place_on_picture(
    driving: Driving | str | Path,
    image: np.ndarray,
    size: tuple[int, int],
    rate: float,
    estimator: PoseEstimator | None = None,
    how: Align = "reference",
    fitting: Fit = "crop",
) -> np.ndarray:
    """Driving poses (T, 133, 3) in pixels of a video of `size` (width, height) that begins with the person of `image`.

    driving: poses, or a video to read at `rate`. image: (H, W, 3) uint8, which is put into the size by `fitting`.
    how: "reference" lays the driving person onto the picture's, in scale and position; "proportions" gives them the
    limb lengths of the picture's person, too; "none" leaves them where they are in the driving video's frames, which
    are then fitted as the picture is. estimator: BlazePose unless given. Raises ValueError where there is nobody in the
    video or, if asked to lay them on it, in the picture; warns where most of the person would lie outside the picture.
    """
    estimator = estimator or load_estimator("blazepose")
    if not isinstance(driving, Driving):
        driving = read_driving(driving, rate, estimator)
    if how == "proportions":
        placed = with_proportions(driving.keypoints, _reference(image, size, estimator, fitting))
    else:
        placed = moved(
            driving.keypoints, placements_on_picture(driving, image, size, estimator, how, fitting)
        )
    if how == "none":
        return placed
    if (share := outside(placed, size)) > MOSTLY_OUTSIDE:
        warnings.warn(
            f"In {share:.0%} of the frames most of the person lies outside the picture: choose a picture that shows as "
            "much of the person as the driving video does, or leaves them more room.",
            stacklevel=2,
        )
    return placed


def placements_on_picture(
    driving: Driving,
    image: np.ndarray,
    size: tuple[int, int],
    estimator: PoseEstimator,
    how: Literal["reference", "none"],
    fitting: Fit,
) -> list[Placed]:
    """Where the frames of a driving video land in a video of `size` (width, height), as `place_on_picture` lays poses.

    Raises ValueError where there is nobody in the picture, if asked to lay them on it.
    """
    if how == "none":
        return [Placed(0, len(driving.keypoints), fit(driving.size, size, fitting))]
    return placements(driving.keypoints, _reference(image, size, estimator, fitting))


def _reference(
    image: np.ndarray, size: tuple[int, int], estimator: PoseEstimator, fitting: Fit
) -> np.ndarray:
    """The pose (133, 3) of the picture's person, in pixels of a video of `size`."""
    return fit((image.shape[1], image.shape[0]), size, fitting).keypoints(picture_pose(image, estimator))


def fill_gaps(keypoints: np.ndarray) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """Poses (T, 133, 3) without their NaN frames, and the spans [start, stop) that were filled in.

    Raises ValueError where no frame shows a person.
    """
    seen = ~np.isnan(keypoints).any(axis=(1, 2))
    if not seen.any():
        raise ValueError("there is nobody in the driving video; choose one that shows a person.")
    frames, there = np.arange(len(keypoints)), np.flatnonzero(seen)
    edges = np.flatnonzero(np.diff(seen, prepend=True, append=True))
    gaps = tuple((int(start), int(stop)) for start, stop in edges.reshape(-1, 2))
    # The seen frames around each frame; past an end both are the nearest one.
    after = there[np.minimum(np.searchsorted(there, frames), len(there) - 1)]
    before = np.where(seen, frames, there[np.maximum(np.searchsorted(there, frames) - 1, 0)])
    share = ((frames - before) / np.maximum(after - before, 1))[:, None, None]
    filled = (1 - share) * keypoints[before] + share * keypoints[after]
    # A joint that one end does not show has no place there to move to or from.
    filled[..., 2] = np.minimum(keypoints[before, :, 2], keypoints[after, :, 2])
    return filled.astype(np.float32), gaps

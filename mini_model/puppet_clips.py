"""One drawn clip as rows of the dataset's tables: the video, its truth, and the scores that are known without a model.

A score that only a real video has (how human, how sharp, how shaky) stays empty; what follows from the
drawing is exact. Real motion is taken from curated keypoints, at a random time and half of it mirrored.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mini_model.puppets import (
    ACTIONS,
    Puppet,
    PuppetClip,
    Scene,
    calm_start,
    kind_of,
    leave,
    motion,
    render,
    retarget,
)
from posegen.dataset import FAILED, KEPT, content_id, pack_keypoints, unpack_keypoints
from posegen.driving.framing import framing_of
from posegen.driving.skeleton import BODY, FACE, LEFT_HAND, RIGHT_HAND, VISIBLE, flip, standing_height
from posegen.video import save_video
from posegen.video.pictures import jpeg
from training.data.tables import Place, Tables

DRAWING = 2
"""Counts up with every change of what a seed draws."""
PREVIEW_HEIGHT = 240
MOTION, AWAY = 301, 303
"""Streams of a seed's random numbers."""
REAL_ACTION = "moves"
MOTIONS = {
    "walk": "walking",
    "dance": "dancing",
    "wave": "gesturing",
    "gesture": "gesturing",
}
"""Curation's names of motions; every other kind is "moving"."""
HEAD = slice(0, 5)
HANDS = ((9, LEFT_HAND), (10, RIGHT_HAND))  # with their wrists
LUMA = np.array([0.2126, 0.7152, 0.0722])  # BT.709


@dataclass(frozen=True)
class RealMotions:
    """Clips of curated tables, (clip_id, place), whose motion a share of the puppets takes over."""

    tables: Tables
    clips: list[tuple[str, Place]]
    share: float

    def sample(self, seed: int, settings: ClipSettings) -> np.ndarray | None:
        """Keypoints (T, 133, 3) of the seed's real motion in the picture; None for a seed that has none."""
        random = np.random.default_rng([seed, MOTION])
        if random.uniform() >= self.share:
            return None
        clip_id, place = self.clips[random.integers(len(self.clips))]
        row = self.tables.row(place, clip_id, ["clip_id", "rate", "keypoints", "keypoints_shape"])
        keypoints = unpack_keypoints(row)
        if random.uniform() < 0.5:
            keypoints = flip(keypoints, 0)
        poses = retarget(keypoints, row["rate"], settings.rate, settings.size)
        first = random.integers(len(poses) - settings.frames + 1)
        return poses[first : first + settings.frames]


@dataclass(frozen=True)
class ClipSettings:
    """What clips of all seeds share: size is (width, height), rate in frames a second, `version` names all of it.

    calm: frames at the start in which the person stands and then moves over into the motion; away: the share of clips
    in which the person leaves the picture after that.
    """

    size: tuple[int, int]
    frames: int
    rate: float
    calm: int
    away: float
    version: str

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        frames: int,
        rate: float,
        calm: int = 0,
        away: float = 0.0,
        motions: RealMotions | None = None,
    ) -> ClipSettings:
        """The settings, their version following from the rest and from the real motions taken over."""
        real = (motions.share, *(clip_id for clip_id, _ in motions.clips)) if motions else ()
        version = content_id("puppets", DRAWING, *size, frames, rate, calm, away, *real)
        return cls(size, frames, rate, calm, away, version)


def draw_clip(
    settings: ClipSettings, seed: int, motions: RealMotions | None = None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The seed's row of `clips/` and of `media/`, which is None where the clip failed, as the first row then says."""
    size, rate = settings.size, settings.rate
    row = {
        "clip_id": content_id(settings.version, seed),
        "video_id": content_id("puppet", seed),
        "path": f"puppets/{seed}",
        "start": 0.0,
        "stop": settings.frames / rate,
        "rate": rate,
        "width": size[0],
        "height": size[1],
        "reasons": [],
    }
    try:
        real = motions.sample(seed, settings) if motions else None
    except ValueError as error:  # of real keypoints that show nobody
        said = {"error_stage": "motion", "error_type": "ValueError", "error_message": str(error)}
        return row | said | {"status": FAILED}, None
    kind = kind_of(seed) if real is None else ""
    keypoints = motion(seed, settings.frames, rate, size) if real is None else real
    keypoints = calm_start(keypoints, settings.calm, seed, size)
    if np.random.default_rng([seed, AWAY]).uniform() < settings.away:
        keypoints = leave(keypoints, settings.calm, seed, size)
    puppet, scene = Puppet.sample(seed), Scene.sample(seed)
    clip = render(puppet, scene, keypoints, size, rate, ACTIONS.get(kind, REAL_ACTION))
    row |= {
        "status": KEPT,
        **known_scores(clip, scene, rate),
        "framing": framing_of(keypoints, size),
        "motion": MOTIONS.get(kind, "moving"),
        "subject": puppet.subject,
        "caption": clip.caption,
        "caption_source": "puppets",
        **pack_keypoints(keypoints),
        "preview": jpeg(clip.frames[settings.frames // 2], min(settings.size[1], PREVIEW_HEIGHT)),
        "preview_frame": settings.frames // 2,
        "scored_by": "puppets",
    }
    media = {"clip_id": row["clip_id"], "media": _encoded(clip.frames, rate), "media_start": 0.0}
    return row, media | {"seconds": row["stop"], "rate": rate}


def known_scores(clip: PuppetClip, scene: Scene, rate: float) -> dict[str, float | None]:
    """The scores of `posegen.dataset.SCORES` that follow from how a clip was drawn."""
    frames, keypoints = clip.frames, clip.keypoints
    size = np.array(frames.shape[2:0:-1])
    inside = np.all((keypoints[..., :2] >= 0) & (keypoints[..., :2] < size), axis=-1)  # (T, 133)
    seen = inside & (keypoints[..., 2] >= VISIBLE)
    covered = clip.silhouettes.any(axis=2).sum(axis=1)  # (T,) rows of the picture
    faces = keypoints[seen[:, FACE].any(axis=1), FACE, 1]
    hands = np.concatenate([keypoints[seen[:, wrist], hand, 2].ravel() for wrist, hand in HANDS])
    height = np.median([standing_height(pose, threshold=0.0) for pose in keypoints])
    steps = np.linalg.norm(np.diff(keypoints[:, BODY, :2], axis=0), axis=-1)
    repeated = [(frame == before).all() for frame, before in pairwise(frames[::-1])]
    return {
        "seconds": len(frames) / rate,
        "frames": len(frames),
        "repeated_frames": sum(repeated) / len(frames),
        "one_person": float((covered > 0).mean()),
        "second_person": 0.0,
        "head_visible": float(seen[:, HEAD].any(axis=1).mean()),
        "person_height": float(np.median(covered) / size[1]),
        "face_size": float(np.median(np.ptp(faces, axis=1)) / size[1]) if len(faces) else None,
        "visible_joints": float(seen[:, BODY].mean()),
        "hand_confidence": float(hands.mean()) if len(hands) else None,
        "truncation": float(1 - inside[:, BODY].mean()),
        "brightness": float((frames.mean(axis=(0, 1, 2)) @ LUMA) / 255),
        "subject_motion": float(steps.mean() * rate / height) if len(steps) else 0.0,
        "camera_motion": _camera_motion(scene, len(frames), rate, size),
        "text_area": 0.0,
        "unsafe": 0.0,
    }


def _camera_motion(scene: Scene, frames: int, rate: float, size: np.ndarray) -> float:
    """Mean speed of the background in the middle of the picture, picture diagonals a second."""
    middle = scene.camera(frames, rate) @ np.array([0.5, 0.5, 1.0]) * size
    steps = np.linalg.norm(np.diff(middle, axis=0), axis=-1)
    return float(steps.mean() * rate / np.hypot(*size)) if len(steps) else 0.0


def _encoded(frames: np.ndarray, rate: float) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "clip.mp4"
        save_video(frames, file, rate)
        return file.read_bytes()

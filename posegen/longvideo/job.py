"""One long video to be made: all that its frames depend on beside the model, and where finished segments are kept.

A job is data, the same for the process that makes all of it and for one that makes a single segment. A stored segment
is named by the job's content, so a folder may hold those of many jobs and none is ever mistaken; its frames are stored
as they are, without loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from posegen.common.files import written_whole
from posegen.driving.drawing import foreground_mask
from posegen.longvideo.conditions import draw_poses
from posegen.longvideo.sampling import Guidance
from posegen.longvideo.segments import Plan
from posegen.sharing import SUBJECT_BLOCKS, Form, SharedRange

PROVENANCE = ("name_or_path", "transformers_version")
ForegroundSource = Literal["pose", "subject", "mask", "none"]


class Frames(Protocol):
    """Frames of a video by number: an array (T, H, W, 3) uint8, or a `posegen.driving.driving_video.VideoFrames`."""

    def __len__(self) -> int: ...

    def __getitem__(self, frames: np.ndarray) -> np.ndarray: ...

    def tobytes(self) -> bytes:
        """What tells these frames from others."""
        ...


@dataclass(frozen=True)
class BackgroundSharing:
    """How base segments share the anchor's background.

    shared: at which steps and blocks. foreground: where the person is told from. keep_person: whether backgrounds may
    attend to the anchor's person, as the authors' do. form: what of the anchor is recorded. subject_blocks: how many
    first blocks vote where the person is, for the foreground "subject".
    """

    shared: SharedRange
    foreground: ForegroundSource = "pose"
    keep_person: bool = True
    form: Form = "key_value"
    subject_blocks: int = SUBJECT_BLOCKS


@dataclass(frozen=True, eq=False)
class VideoJob:
    """A long video to be made; ValueError in a sentence where its parts do not fit together.

    picture: (H, W, 3) uint8, the reference at the video's size. keypoints: (T, 133, 3) float32, driving poses in pixels
    of that size, a person in each. hands: T frames of the hands' surface normals on black, None for black alone. mask:
    T frames, white where the person is, for the foreground "mask". sharing: None for none. loras: names of those that
    the pipeline was loaded with (`PoseGenPipeline.loras`), and their strengths.
    """

    picture: np.ndarray
    keypoints: np.ndarray
    plan: Plan
    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int
    guidance: Guidance = field(default_factory=Guidance)
    sharing: BackgroundSharing | None = None
    hands: Frames | None = None
    mask: Frames | None = None
    loras: tuple[tuple[str, float], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the video in pixels."""
        return self.picture.shape[1], self.picture.shape[0]

    def __post_init__(self) -> None:
        if self.keypoints.shape != (self.plan.frames, 133, 3):
            raise ValueError(
                f"The driving poses have the shape {self.keypoints.shape}; give ({self.plan.frames}, 133, 3)."
            )
        if not np.isfinite(self.keypoints).all():
            raise ValueError("The driving poses have frames without a person; fill them with fill_gaps.")
        if self.mask is None and self.sharing is not None and self.sharing.foreground == "mask":
            raise ValueError('The foreground "mask" needs a mask: give one, or take the pose.')
        for name, frames in (("hands", self.hands), ("mask", self.mask)):
            if frames is not None and len(frames) != self.plan.frames:
                raise ValueError(
                    f"The {name} have {len(frames)} frames, the poses {self.plan.frames}: give as many."
                )

    def pose_video(self, index: int, oversampling: int) -> np.ndarray:
        """A segment's pose pictures (F, H, W, 3) uint8; oversampling: see `draw_poses`."""
        return draw_poses(self.keypoints[self.plan.driving_frames(index)], self.size, oversampling)

    def hand_video(self, index: int) -> np.ndarray:
        """A segment's hands on black (F, H, W, 3) uint8."""
        driving = self.plan.driving_frames(index)
        if self.hands is None:
            return np.zeros((len(driving), *self.picture.shape), np.uint8)
        return self.hands[driving]

    def person(self, index: int) -> np.ndarray:
        """Where the person of a segment is, (F, H, W) bool, by the foreground that is shared by; nowhere for "none"."""
        driving = self.plan.driving_frames(index)
        source = self.sharing.foreground if self.sharing else "none"
        if source == "pose":
            return np.stack([foreground_mask(pose, self.size) for pose in self.keypoints[driving]])
        if source == "mask" and self.mask is not None:
            return self.mask[driving][..., 0] > 127
        return np.zeros((len(driving), *self.picture.shape[:2]), bool)

    def content_id(self, model: str) -> str:
        """32 hexadecimal digits that name what a model (told by any text) makes of this job."""
        digest = hashlib.sha256(model.encode())
        for part in self._parts():
            digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()[:32]

    def _parts(self) -> Iterator[bytes | memoryview]:
        settings = (self.plan, self.seed, self.num_inference_steps, self.guidance, self.sharing, self.size)
        yield repr((settings, self.prompt, self.negative_prompt, self.loras)).encode()
        for array in (self.picture, self.keypoints):
            yield np.ascontiguousarray(array).data
        for frames in (self.hands, self.mask):
            yield b"" if frames is None else frames.tobytes()


@dataclass(frozen=True, eq=False)
class EncodedJob:
    """What is the same for all segments of a job, each of batch 1 as in `Conditions`; hands are those of no hands."""

    reference: torch.Tensor
    text: torch.Tensor
    negative_text: torch.Tensor
    image: torch.Tensor | None
    hands: torch.Tensor | None


def model_id(components: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Tells models apart, by all that a segment's frames depend on beside the job.

    components: a pipeline's, by name: each counts with its configuration, and a network with the names, shapes and
    first values of its tensors. settings: the pipeline's own.
    """
    digest = hashlib.sha256(_named(settings).encode())
    for name, component in sorted(components.items()):
        config = getattr(component, "config", None) or getattr(component, "init_kwargs", {})
        config = config if isinstance(config, Mapping) else config.to_dict()
        digest.update(f"{name} {type(component).__name__} {_named(config)}".encode())
        if not isinstance(component, torch.nn.Module):
            continue
        for key, tensor in component.state_dict().items():
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            if not tensor.is_meta:  # as under sequential offloading
                digest.update(tensor.flatten()[:8].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _named(settings: Mapping[str, Any]) -> str:
    """The settings in a fixed order, without those that say where and by which version a folder was written."""
    return repr([(k, v) for k, v in sorted(settings.items()) if k[0] != "_" and k not in PROVENANCE])


class SegmentStore:
    """Finished segments of jobs in a folder: one safetensors file each, written whole or not at all."""

    def __init__(self, folder: str | Path, content_id: str) -> None:
        self._folder, self._content_id = Path(folder), content_id

    def path(self, index: int) -> Path:
        """The file of a segment, there or not."""
        return self._folder / f"{self._content_id}-{index:05d}.safetensors"

    def load(self, index: int) -> np.ndarray | None:
        """The segment's frames (F, H, W, 3) uint8, if it is there."""
        return load_file(self.path(index))["frames"] if self.path(index).exists() else None

    def save(self, index: int, frames: np.ndarray) -> None:
        """Keeps the segment's frames (F, H, W, 3) uint8."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with written_whole(self.path(index)) as part:
            save_file({"frames": frames}, part)

"""What a segment is denoised with: pictures, poses and text as tensors, and its part in the shared background."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from posegen.longvideo.conditions import (
    Conditions,
    encode_frames,
    encode_image,
    encode_text,
    pose_condition,
    subject_tokens,
)
from posegen.longvideo.job import EncodedJob, VideoJob
from posegen.longvideo.segments import Segment
from posegen.sharing import (
    AnchorReader,
    AnchorRecorder,
    Foreground,
    GivenForeground,
    SegmentSharing,
    SharedStore,
    SubjectForeground,
    foreground_tokens,
)


@dataclass(frozen=True)
class SegmentInputs:
    """Makes a segment's inputs of a pipeline's components.

    transformer: its configuration. pose_oversampling: see `posegen.longvideo.conditions.draw_poses`.
    """

    vae: Any
    transformer: Any
    tokenizer: Any
    text_encoder: Any
    image_encoder: Any
    image_processor: Any
    pose_oversampling: int

    def encode(self, job: VideoJob) -> EncodedJob:
        """What all segments of a job see alike."""
        text = encode_text(self.tokenizer, self.text_encoder, [job.prompt, job.negative_prompt])
        image = None
        if self.image_encoder is not None:
            image = encode_image(self.image_processor, self.image_encoder, job.picture[None])
        hands = None
        if self.transformer.hand_channels is not None and job.hands is None:
            hands = encode_frames(
                self.vae, np.zeros((1, job.plan.segment_frames, *job.picture.shape), np.uint8)
            )
        reference = encode_frames(self.vae, job.picture[None, None])
        return EncodedJob(reference, text[:1], text[1:], image, hands)

    def conditions(
        self, job: VideoJob, encoded: EncodedJob, segment: Segment, neighbours: Mapping[int, np.ndarray]
    ) -> Conditions:
        """A segment's conditions; neighbours: for a bridge, the frames of the two segments beside it, by index."""
        index, with_given = segment.index, partial(job.plan.with_given_frames, segment.index)
        pose = with_given(job.pose_video(index, self.pose_oversampling), neighbours)
        hands = encoded.hands
        own = job.hands is not None or segment.kind == "bridge"
        if own and self.transformer.hand_channels is not None:
            hands = encode_frames(self.vae, with_given(job.hand_video(index), neighbours)[None])
        return Conditions(
            pose=pose_condition(self.vae, pose[None], torch.from_numpy(job.plan.given(index))[None]),
            reference=encoded.reference,
            text=encoded.text,
            negative_text=encoded.negative_text,
            image=encoded.image,
            hands=hands,
        )

    def sharing(self, job: VideoJob, segment: Segment, record: SharedStore | None) -> SegmentSharing | None:
        """What a segment does about the shared background; ValueError where it needs a record and has none."""
        if job.sharing is None or segment.kind == "bridge" or not job.plan.bridges:
            return None
        if record is None:
            raise ValueError(
                f"Base segment {segment.index} shares the background; give it the anchor's record."
            )
        sharing, foreground = job.sharing, self._foreground(job, segment)
        if segment.index == job.plan.anchor:
            return AnchorRecorder(sharing.shared, foreground, record, sharing.form)
        return AnchorReader(sharing.shared, foreground, record, sharing.keep_person)

    def _foreground(self, job: VideoJob, segment: Segment) -> Foreground:
        patch = tuple(self.transformer.patch_size)
        if job.sharing is None or job.sharing.foreground != "subject":
            return GivenForeground(foreground_tokens(job.person(segment.index), patch))
        stride = self.vae.config.scale_factor_spatial
        rows, columns = (side // stride // patch[1] for side in job.picture.shape[:2])
        grid = ((segment.frames - 1) // 4 + 1, rows, columns)
        words = subject_tokens(self.tokenizer, job.prompt)
        return SubjectForeground(words, grid, job.sharing.subject_blocks)

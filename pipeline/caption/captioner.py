"""Captions of kept clips by a vision-language model: frames of a batch in, one record a clip out.

Records carry their clip_id from the first to the last step. A clip whose video can no longer be read fails alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.config import CurateConfig
from pipeline.journals import CAPTIONED
from pipeline.plan.planner import failure
from pipeline.plan.source import Source
from posegen.captions.qwen import QwenCaptioner
from posegen.captions.subject_words import subject_word
from posegen.common.storage import Folder
from posegen.dataset import table
from posegen.video import VideoError, VideoInfo, read_frames, sample_indices

FRAMES = 4
"""Frames of a clip that the model sees, spread evenly."""
SHORT_SIDE = 448
"""Pixels of their shorter side: 16 of the model's tokens across."""


def make_captioner(config: CurateConfig) -> Callable[[Sequence[Mapping[str, Any]]], list[pa.Table]]:
    """A function from rows of clips to their records, tables of one row of schema `CAPTIONED`. Loads the model."""
    folder = Folder(config.input)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = QwenCaptioner(
        config.captioner, device, question=config.caption_prompt, tokens=config.caption_tokens
    )

    def caption(clips: Sequence[Mapping[str, Any]]) -> list[pa.Table]:
        frames: dict[str, np.ndarray] = {}
        failed: dict[str, pa.Table] = {}
        for clip in clips:
            with Source(folder, clip["path"]) as source:
                try:
                    frames[clip["clip_id"]] = frames_of(source.info, clip)
                except (VideoError, OSError) as error:
                    failed[clip["clip_id"]] = failed_caption(clip, source.said(error))
        said = model(frames)
        return [
            failed.get(clip["clip_id"]) or answered(clip, said[clip["clip_id"]], config) for clip in clips
        ]

    return caption


def failed_caption(clip: Mapping[str, Any], error: Exception) -> pa.Table:
    """The record of a clip that could not be captioned."""
    return table([{"clip_id": clip["clip_id"], **failure("caption", error)}], CAPTIONED)


def answered(clip: Mapping[str, Any], text: str, config: CurateConfig) -> pa.Table:
    """The record of a clip that the model wrote this text about."""
    row = {"clip_id": clip["clip_id"], "subject": subject_word(text), "caption": text}
    return table([row | {"caption_source": config.captioner}], CAPTIONED)


def frames_of(info: VideoInfo, clip: Mapping[str, Any]) -> np.ndarray:
    """The frames of a clip that the model sees, (FRAMES, H, W, 3) uint8 RGB."""
    shown = sample_indices(info, clip["start"], clip["stop"], clip["rate"])
    scale = min(1.0, SHORT_SIDE / min(info.width, info.height))
    size = (round(info.width * scale), round(info.height * scale))
    picked = shown[((np.arange(FRAMES) + 0.5) * len(shown) / FRAMES).astype(int)]
    return np.concatenate(list(read_frames(info, picked, size)))

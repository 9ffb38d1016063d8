"""Captions by vLLM as a stage of Ray Data: engines on the GPUs, and beside them tasks that read frames and record.

Any vision-language model that vLLM serves will do. The engine is Ray's own (`ray.data.llm`) and asks for the packages
of `pip install "ray[llm]"` on the nodes with GPUs.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from ray.data.llm import PrepareMultimodalStageConfig, Processor, build_processor, vLLMEngineProcessorConfig

from pipeline.caption.captioner import FRAMES, answered, failed_caption, frames_of
from pipeline.config import CurateConfig
from posegen.captions.subject_words import ensure_one_subject_word
from posegen.video import probe
from posegen.video.pictures import jpeg

FRAME_TOKENS = 1024
"""Most tokens of a frame whose shorter side is 448 pixels: Qwen2.5-VL takes one for 28 x 28 pixels, others more."""
CLIPS_AT_ONCE = 64
"""Clips of a batch for an engine, which answers several batches at a time."""

Row = dict[str, Any]


def engine(config: CurateConfig, replicas: int) -> vLLMEngineProcessorConfig:
    """So many engines of the configured model, one GPU each; a clip that one cannot answer fails alone."""
    return vLLMEngineProcessorConfig(
        model_source=config.captioner,
        engine_kwargs={
            "max_model_len": FRAMES * FRAME_TOKENS + config.caption_tokens,
            "limit_mm_per_prompt": {"image": FRAMES},
        },
        concurrency=replicas,
        batch_size=CLIPS_AT_ONCE,
        should_continue_on_error=True,
        prepare_multimodal_stage=PrepareMultimodalStageConfig(chat_template_content_format="openai"),
    )


def make_processor(config: CurateConfig, replicas: int) -> Processor:
    """What turns a dataset of rows of frames into one of answers."""
    return build_processor(engine(config, replicas), preprocess=make_request(config), postprocess=answer)


def make_request(config: CurateConfig) -> Callable[[Row], Row]:
    """A function from a clip's frames to the question about them, in the form of a chat."""

    def request(row: Row) -> Row:
        urls = ("data:image/jpeg;base64," + base64.b64encode(frame).decode() for frame in row["frames"])
        frames = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        question = {"type": "text", "text": config.caption_prompt}
        return {
            "clip_id": row["clip_id"],
            "video_id": row["video_id"],
            "messages": [{"role": "user", "content": [*frames, question]}],
            "sampling_params": {"max_tokens": config.caption_tokens, "temperature": 0.0},
        }

    return request


def answer(row: Row) -> Row:
    """What is kept of an engine's answer."""
    return {"clip_id": row["clip_id"], "video_id": row["video_id"], "text": row["generated_text"]}


def jpegs(clip: Mapping[str, Any], media: Mapping[str, Any]) -> list[bytes]:
    """The frames of a clip that a model sees, as JPEG files; media: its row of `MEDIA`."""
    with tempfile.TemporaryDirectory(prefix="posegen-") as scratch:
        path = Path(scratch) / "clip.mp4"
        path.write_bytes(media["media"])
        start = media["media_start"]
        frames = frames_of(probe(path), {**clip, "start": start, "stop": start + media["seconds"]})
    return [jpeg(frame, frame.shape[0]) for frame in frames]


def recorded(row: Row, config: CurateConfig) -> pa.Table:
    """The record, a table of one row of `CAPTIONED`, of an answer or an engine's error."""
    if error := row.get("__inference_error__"):
        return failed_caption(row, RuntimeError(error))
    return answered(row, ensure_one_subject_word(" ".join(row["text"].split())), config)

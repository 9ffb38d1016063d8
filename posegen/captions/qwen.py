"""Captions by Qwen2.5-VL: a few frames of each clip in, one sentence with one subject word out.

The prompt is written out in the model's own chat format with frames as pictures, so that only a tokenizer
and a picture processor are needed (the video processor would ask for torchvision). Answers are greedy. They are
returned by clip_id, so a caption cannot land on another clip's row, in whatever order batches finish.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from posegen.captions import QUESTION
from posegen.captions.subject_words import ensure_one_subject_word
from posegen.common.profiling import timed

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
PICTURE_PIXELS = {"shortest_edge": 4 * 28 * 28, "longest_edge": 256 * 28 * 28}  # 4 to 256 tokens a frame


class CaptionerError(RuntimeError):
    """The caption model cannot be loaded; the message says from where and what to do."""


class QwenCaptioner:
    """Qwen2.5-VL from a folder or the hub name `model`, on `device`; `batch` clips at once.

    question: what it is asked about a clip. tokens: the longest answer. Raises CaptionerError where the model cannot be
    had, as without a network and without the files.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        device: str = "cpu",
        batch: int = 8,
        question: str = QUESTION,
        tokens: int = 96,
    ) -> None:
        self.device, self.batch = device, batch
        self.question, self.tokens = question, tokens
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
            self.pictures = Qwen2VLImageProcessorPil.from_pretrained(model)
            loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(model, dtype=dtype)
        except (OSError, ValueError) as error:
            where = "in that folder" if Path(model).is_dir() else "as a folder or on the hub"
            raise CaptionerError(
                f"no Qwen2.5-VL model could be loaded from {model!r} {where}; give a folder that holds one, or "
                f"caption without a model ({' '.join(str(error).split())})"
            ) from error
        self.model = loaded.to(device).eval()

    def __call__(self, clips: Mapping[str, np.ndarray]) -> dict[str, str]:
        """Captions by clip_id for clips by clip_id, each a few frames (n, H, W, 3) uint8 RGB.

        An answer without a subject word speaks of a person.
        """
        captions: dict[str, str] = {}
        every = list(clips)
        for clip_ids in (every[at : at + self.batch] for at in range(0, len(every), self.batch)):
            answers = self._answers([clips[clip_id] for clip_id in clip_ids])
            for clip_id, answer in zip(clip_ids, answers, strict=True):
                captions[clip_id] = ensure_one_subject_word(answer)
        return captions

    def _answers(self, clips: list[np.ndarray]) -> list[str]:
        """The model's own words for each clip, in the clips' order."""
        frames = [Image.fromarray(frame) for clip in clips for frame in clip]
        pictures = self.pictures(frames, size=PICTURE_PIXELS, return_tensors="pt")
        tokens = iter((pictures["image_grid_thw"].prod(dim=1) // self.pictures.merge_size**2).tolist())
        prompts = [prompt([next(tokens) for _ in clip], self.question) for clip in clips]
        texts = self.tokenizer(prompts, padding=True, return_tensors="pt")
        asked = texts["input_ids"].to(self.device)
        with timed("model"), torch.inference_mode():
            told = self.model.generate(
                input_ids=asked,
                attention_mask=texts["attention_mask"].to(self.device),
                pixel_values=pictures["pixel_values"].to(self.device, self.model.dtype),
                image_grid_thw=pictures["image_grid_thw"].to(self.device),
                mm_token_type_ids=(asked == self.model.config.image_token_id).int(),
                max_new_tokens=self.tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
            )
        answers = self.tokenizer.batch_decode(told[:, asked.shape[1] :], skip_special_tokens=True)
        return [" ".join(answer.split()) for answer in answers]


def prompt(tokens: Iterable[int], question: str) -> str:
    """A question about frames of so many picture tokens each, in Qwen2.5-VL's chat format."""
    frames = "".join(f"<|vision_start|>{count * '<|image_pad|>'}<|vision_end|>" for count in tokens)
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{frames}{question}<|im_end|>\n<|im_start|>assistant\n"
    )

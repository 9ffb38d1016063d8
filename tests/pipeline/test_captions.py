"""Composed captions on known poses and colours, the rule of one subject word, and Qwen2.5-VL on a tiny
model."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.score.composed_caption import Measured, compose_caption, motion_of
from pipeline.score.person import WRISTS
from posegen.captions.qwen import CaptionerError, QwenCaptioner
from posegen.captions.subject_words import SUBJECT_OF, SUBJECT_WORDS, ensure_one_subject_word
from posegen.driving.framing import framing_of
from posegen.driving.skeleton import KEYPOINT_INDEX

SIZE = (400, 400)
ONE_WORD = re.compile(rf"\b({'|'.join(SUBJECT_WORDS)})\b", re.IGNORECASE)
OTHER_WORDS = re.compile(rf"\b({'|'.join(set(SUBJECT_OF) - set(SUBJECT_WORDS))})\b", re.IGNORECASE)

# A standing adult of height 1, feet at y = 1: x and y of each body joint.
STANDING = {
    "nose": (0, 0.08),
    "eye": (0.02, 0.065),
    "ear": (0.0445, 0.075),
    "shoulder": (0.13, 0.185),
    "elbow": (0.15, 0.37),
    "wrist": (0.16, 0.515),
    "hip": (0.08, 0.47),
    "knee": (0.08, 0.715),
    "ankle": (0.08, 0.96),
}


def pose(x: float = 200, top: float = 40, height: float = 320) -> np.ndarray:
    """(133, 3): the standing adult with a face, all sure."""
    keypoints = np.zeros((133, 3), np.float32)
    for name, (across, down) in STANDING.items():
        for side, sign in (("left_", 1), ("right_", -1)):
            joint = KEYPOINT_INDEX.get(side + name, KEYPOINT_INDEX.get(name))
            keypoints[joint] = x + sign * across * height, top + down * height, 0.9
    angles = np.linspace(0, 2 * np.pi, 68)
    keypoints[23:91, 0] = x + 0.04 * height * np.cos(angles)
    keypoints[23:91, 1] = top + height * (0.075 + 0.055 * np.sin(angles))
    keypoints[23:91, 2] = 0.9
    return keypoints


def clip(seconds: float = 3) -> tuple[np.ndarray, np.ndarray]:
    """Poses (T, 133, 3) of one who stands, and times (T,)."""
    times = np.arange(int(seconds * 10)) / 10
    return np.stack([pose()] * len(times)), times


def swing(poses: np.ndarray, times: np.ndarray, joints: list[str], way: float) -> np.ndarray:
    """The poses with joints that go up and down by `way` of the height, twice a second."""
    poses = poses.copy()
    for joint in joints:
        for side in ("left_", "right_"):
            poses[:, KEYPOINT_INDEX[side + joint], 1] += way * 320 * np.sin(4 * np.pi * times + 0.3)
    return poses


def measured(poses: np.ndarray, times: np.ndarray, **others: float) -> Measured:
    return Measured(poses, times, SIZE, **others)


def test_a_caption_says_what_was_measured() -> None:
    found = measured(*clip(), camera_motion=0.0, background_brightness=0.8)
    caption = compose_caption(found)
    assert (caption.subject, caption.framing, caption.motion) == ("person", "full-body", "still")
    assert caption.text == (
        "A person, keeping still, seen from head to foot, in front of a bright background, filmed by a still camera."
    )


def test_a_caption_says_nothing_that_was_not_measured() -> None:
    poses, times = clip()
    poses[::2, WRISTS, 2] = 0  # what the hands did is not known
    assert compose_caption(measured(poses, times)).text == "A person, seen from head to foot."


@pytest.mark.parametrize(
    ("top", "height", "framing"),
    [(40, 320, "full-body"), (150, 100, "distant"), (20, 700, "half-body"), (20, 2400, "close-up")],
)
def test_framing_follows_from_what_the_picture_shows(top: float, height: float, framing: str) -> None:
    assert framing_of(np.stack([pose(200, top, height)] * 5), SIZE) == framing


def test_motion_follows_from_the_joints_that_move() -> None:
    poses, times = clip()
    travelling = poses.copy()
    travelling[..., 0] += 0.5 * 320 * times[:, None]
    assert motion_of(poses, times) == "still"
    assert motion_of(swing(poses, times, ["wrist", "elbow"], 0.1), times) == "gesturing"
    assert motion_of(swing(poses, times, ["wrist", "elbow", "knee", "ankle"], 0.1), times) == "dancing"
    assert motion_of(swing(travelling, times, ["knee", "ankle"], 0.1), times) == "walking"
    travelling[..., 0] += 1.5 * 320 * times[:, None]
    assert motion_of(swing(travelling, times, ["knee", "ankle"], 0.1), times) == "running"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A lady in red walks; the woman waves.", "A woman in red walks; the figure waves."),
        ("An individual stands with many romantic flowers.", "A boy stands with many romantic flowers."),
        ("Two men shake hands with a boy.", "A man shake hands with a figure."),
        ("A female dancer spins.", "A woman. A dancer spins."),
        ("The guy's hat and the guy's coat.", "The man's hat and the figure's coat."),
        ("A person smiles. The girl is happy.", "A girl smiles. The figure is happy."),
        ("A man-made lake and Spider-Man.", "A boy. A human-made lake and Spider-human."),
        ("Dancing in the rain.", "A boy. Dancing in the rain."),
        ("", "A boy."),
    ],
)
def test_one_subject_word_is_kept(text: str, expected: str) -> None:
    assert ensure_one_subject_word(text, "boy") == expected


OTHERS = [
    "an",
    "two",
    "romantic",
    "many",
    "human",
    "a",
    "-",
    ".",
    "'s",
    "walks",
    "man-made",
    "male",
    "é",
    "_x",
    "\n",
]
PIECES = [*SUBJECT_OF, *(word.title() for word in SUBJECT_OF), *OTHERS]


@given(st.lists(st.sampled_from(PIECES)), st.sampled_from(["", " "]), st.sampled_from(SUBJECT_WORDS))
def test_any_text_ends_with_one_subject_word(words: list[str], glue: str, fallback: str) -> None:
    text = ensure_one_subject_word(glue.join(words), fallback)
    assert len(ONE_WORD.findall(text)) == 1
    assert not OTHER_WORDS.search(text)
    assert ensure_one_subject_word(text, fallback) == text


def test_another_fallback_is_refused() -> None:
    with pytest.raises(ValueError, match="'dog'"):
        ensure_one_subject_word("A dog.", "dog")


def some_clips() -> dict[str, np.ndarray]:
    """Five clips of two or three frames of several sizes."""
    colours = np.random.default_rng(0).integers(0, 255, (5, 3), np.uint8)
    return {f"clip{i}": np.tile(colours[i], (2 + i % 2, 56 + 28 * i, 84, 1)) for i in range(5)}


def test_captions_stay_with_their_clips_in_any_order_and_batch(tiny_qwen: Path) -> None:
    clips = some_clips()
    alone = QwenCaptioner(str(tiny_qwen), batch=1)
    expected = {clip_id: alone({clip_id: frames})[clip_id] for clip_id, frames in clips.items()}
    assert len(set(expected.values())) >= 4  # so that a swap would show
    for seed, batch in ((1, 2), (2, 3), (3, 8)):
        order = random.Random(seed).sample(sorted(clips), len(clips))
        assert QwenCaptioner(str(tiny_qwen), batch=batch)({name: clips[name] for name in order}) == expected


def test_model_captions_have_one_subject_word(tiny_qwen: Path) -> None:
    captions = QwenCaptioner(str(tiny_qwen))(some_clips())
    assert all(len(ONE_WORD.findall(text)) == 1 for text in captions.values())


def test_question_and_length_of_the_answer_are_the_users(tiny_qwen: Path) -> None:
    clips = some_clips()
    plain = QwenCaptioner(str(tiny_qwen), question="What is worn?")(clips)
    short = QwenCaptioner(str(tiny_qwen), question="What is worn?", tokens=3)(clips)
    assert all(len(short[name]) < len(plain[name]) for name in clips)
    assert plain != QwenCaptioner(str(tiny_qwen))(clips)


def test_large_frames_take_at_most_256_tokens(tiny_qwen: Path) -> None:
    captioner = QwenCaptioner(str(tiny_qwen))
    asked: list[torch.Tensor] = []
    generate = captioner.model.generate

    def listen(**inputs: torch.Tensor) -> torch.Tensor:
        asked.append(inputs["image_grid_thw"].prod(dim=1) // 4)
        return generate(**inputs)

    captioner.model.generate = listen
    captioner({"a": np.zeros((1, 720, 1280, 3), np.uint8)})
    assert 200 <= int(asked[0]) <= 256


def test_a_missing_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    with pytest.raises(CaptionerError, match=re.escape(str(tmp_path))):
        QwenCaptioner(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CaptionerError, match=r"'nobody/no-model'.*give a folder"):
        QwenCaptioner("nobody/no-model")

"""Every measure on frames drawn here, whose answer is known; the networks on pictures drawn here as well."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.score.distinct import DistinctPictures
from pipeline.score.duplicates import PerceptualHashes, hash_numbers, near_duplicates, perceptual_hash
from pipeline.score.explicit import ExplicitContent, ExplicitDetector
from pipeline.score.measures import (
    Blur,
    Brightness,
    CameraMotion,
    Measure,
    RepeatedFrames,
    SubjectMotion,
    Ticks,
    blur_effect,
    thinned,
)
from pipeline.score.quality import Quality
from pipeline.score.text import is_read, text_boxes, text_share
from pipeline.tables.join import JOINED
from pipeline.tables.verdicts import LOOKS, duplicates
from pipeline.verdict import Thresholds
from posegen.common.profiling import collect
from posegen.driving.poses import Person
from testkit.onnx_models import explicit

HEIGHT, WIDTH = 180, 240


def texture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH, grain: int = 4) -> np.ndarray:
    """(height, width, 3) uint8 of soft blotches, `grain` pixels wide."""
    small = np.random.default_rng(seed).integers(0, 255, (height // grain, width // grain, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def patches(seed: int = 0) -> np.ndarray:
    """(180, 240, 3) uint8 of hard-edged rectangles."""
    rng = np.random.default_rng(seed)
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for _ in range(150):
        x, y = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))
        frame[y : y + rng.integers(10, 40), x : x + rng.integers(10, 40)] = rng.integers(0, 255, 3)
    return frame


def standing(x: float = 120, y: float = 90, height: float = 120, track_id: int = 0) -> Person:
    """A person who stands upright around (x, y), all body joints sure."""
    shares = (
        [0.07]
        + [0.05] * 2
        + [0.06] * 2
        + [0.18] * 2
        + [0.37] * 2
        + [0.5] * 2
        + [0.47] * 2
        + [0.72] * 2
        + [0.96] * 2
    )
    sides = [0.0, 1, -1, 2, -2, 6, -6, 7, -7, 8, -8, 5, -5, 5, -5, 5, -5]
    keypoints = np.zeros((133, 3), np.float32)
    keypoints[:17, 0] = x + np.array(sides) * height / 50
    keypoints[:17, 1] = y + (np.array(shares) - 0.5) * height
    keypoints[:17, 2] = 0.9
    box = np.array([x - height / 5, y - height / 2, x + height / 5, y + height / 2], np.float32)
    return Person(box, 0.9, keypoints, track_id)


def run(
    measure: Measure, frames: np.ndarray, people: list[list[Person]] | None = None, rate: float = 30
) -> dict:
    """The measure's result for frames in chunks of seven."""
    times = np.arange(len(frames)) / rate
    people = people or [[] for _ in frames]
    for at in range(0, len(frames), 7):
        measure.update(frames[at : at + 7], people[at : at + 7], times[at : at + 7])
    return measure.result()


def still(frame: np.ndarray, count: int) -> np.ndarray:
    return np.repeat(frame[None], count, axis=0)


def pan(count: int, speed: int) -> np.ndarray:
    """A camera that moves sideways over a picture, `speed` pixels a frame."""
    wide = texture(width=WIDTH + count * speed)
    return np.stack([wide[:, index * speed : index * speed + WIDTH] for index in range(count)])


@given(
    st.lists(st.floats(0.001, 0.9), min_size=1, max_size=60),
    st.integers(1, 60),
    st.sampled_from([0.1, 0.5, 2.0]),
)
def test_ticks_pick_one_frame_a_period_whatever_the_chunks(
    gaps: list[float], chunk: int, period: float
) -> None:
    times = np.cumsum(gaps) - gaps[0]
    whole = Ticks(period).pick(times)
    parts = Ticks(period)
    picked = [at + i for at in range(0, len(times), chunk) for i in parts.pick(times[at : at + chunk])]
    assert picked == whole and whole[0] == 0
    assert len({int((times[index] + 1e-5) / period) for index in whole}) == len(whole)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_thinned_frame_is_every_so_many_rows_and_columns(step: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (31, 47, 3), np.uint8)
    for picture in (frame, frame[:, 3:40], frame[..., ::-1]):
        found = thinned(picture, step)
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, picture[::step, ::step])


def test_repeated_frames_are_counted_and_moving_ones_are_not() -> None:
    assert run(RepeatedFrames(), still(texture(), 11))["repeated_frames"] == 1
    assert run(RepeatedFrames(), pan(11, 1))["repeated_frames"] == 0
    doubled = np.repeat(pan(10, 1), 2, axis=0)
    assert run(RepeatedFrames(), doubled)["repeated_frames"] == pytest.approx(10 / 19)


def test_the_longest_time_that_a_picture_stands_still_is_told() -> None:
    frames = np.concatenate([pan(10, 1), still(texture(), 40), pan(10, 1), still(texture(1), 20)])
    seconds = run(RepeatedFrames(), frames)["still_seconds"]
    alone = run(RepeatedFrames(), still(texture(), 40))["still_seconds"]
    assert seconds == pytest.approx(alone) and seconds > 0
    assert run(RepeatedFrames(), pan(11, 1))["still_seconds"] == 0


def test_blur_rises_with_every_blurring_and_is_that_of_the_person_alone() -> None:
    sharp = patches()
    soft = [sharp] + [cv2.GaussianBlur(sharp, (0, 0), sigma) for sigma in (0.7, 1.5, 3)]
    values = [run(Blur(), frame[None], [[standing()]])["blur"] for frame in soft]
    assert values == sorted(values) and values[0] < 0.4 and values[-1] > 0.7
    background_blurred = soft[3].copy()
    background_blurred[20:160, 85:155] = sharp[20:160, 85:155]
    assert run(Blur(), background_blurred[None], [[standing()]])["blur"] == pytest.approx(values[0], abs=0.05)


def test_blur_of_a_flat_picture_is_one() -> None:
    assert blur_effect(np.full((50, 50), 90, np.uint8)) == 1


def test_brightness_of_picture_and_background() -> None:
    frame = np.full((HEIGHT, WIDTH, 3), 51, np.uint8)
    frame[20:160, 90:150] = 255
    result = run(Brightness(), still(frame, 20), [[standing()]] * 20)
    assert result["background_brightness"] == pytest.approx(0.2, abs=0.01)
    assert result["brightness"] == pytest.approx(0.2 + 0.8 * 140 * 60 / (HEIGHT * WIDTH), abs=0.01)
    everywhere = standing(height=700)
    assert run(Brightness(), frame[None], [[everywhere]])["background_brightness"] is None


@pytest.mark.parametrize("rate", [24.0, 30.0, 60.0])
def test_subject_motion_is_in_person_heights_a_second_at_any_rate(rate: float) -> None:
    people = [
        [standing(x=40 + 60 * index / rate)] for index in range(int(rate * 2))
    ]  # 60 of 120 pixels a second
    result = run(SubjectMotion(), still(texture(), len(people)), people, rate)
    assert result["subject_motion"] == pytest.approx(0.5, rel=0.15)


def test_subject_motion_does_not_leap_from_one_person_to_another() -> None:
    people = [[standing(x=60, track_id=0)]] * 15 + [[standing(x=180, track_id=1)]] * 15
    assert run(SubjectMotion(), still(texture(), 30), people)["subject_motion"] == pytest.approx(0, abs=1e-6)


def test_camera_motion_is_that_of_the_background_alone() -> None:
    frames = pan(45, 2)
    expected = 2 * 30 / np.hypot(HEIGHT, WIDTH)
    assert run(CameraMotion(), frames)["camera_motion"] == pytest.approx(expected, rel=0.1)
    moving_person = still(texture(), 45)
    for index, frame in enumerate(moving_person):
        frame[20:160, 85:155] = texture(7, 140, 200)[:, index : index + 70]
    assert run(CameraMotion(), moving_person, [[standing()]] * 45)["camera_motion"] == pytest.approx(
        0, abs=1e-3
    )


def test_text_is_found_and_blotches_are_not() -> None:
    page = np.full((360, 640, 3), 60, np.uint8)
    assert text_share(page) == 0
    assert text_share(texture(1, 360, 640, 40)) < 0.01
    for row in range(3):
        cv2.putText(
            page,
            "SUBSCRIBE FOR MORE",
            (60, 220 + 50 * row),
            cv2.FONT_HERSHEY_SIMPLEX,
            1.4,
            (255, 255, 255),
            3,
        )
    assert 0.1 < text_share(page) < 0.4


def writing(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """A picture (360, 640, 3) of a line of writing turned by an angle, and the line's corners (4, 2)."""
    page = np.full((360, 640, 3), 60, np.uint8)
    cv2.putText(page, "SUBSCRIBE FOR MORE", (120, 190), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 3)
    corners = np.array([[110, 150], [530, 150], [530, 200], [110, 200]], np.float32)
    turn = cv2.getRotationMatrix2D((320, 180), angle, 1)
    turned = cv2.warpAffine(page, turn, (640, 360), borderMode=cv2.BORDER_REPLICATE)
    return turned, corners @ turn[:, :2].T.astype(np.float32) + turn[:, 2].astype(np.float32)


@pytest.mark.parametrize("angle", [0, 20, -20, -45])
def test_what_can_be_read_is_text_and_what_cannot_is_none(angle: float) -> None:
    page, corners = writing(angle)
    assert is_read(page, corners)
    assert not is_read(np.full_like(page, 60), corners)
    assert not is_read(texture(1, 360, 640, 12), corners)


def test_what_lies_on_a_face_is_no_text() -> None:
    page, _ = writing(0)
    face = np.array([90, 90, 550, 260])
    assert text_share(page) > 0.05
    assert text_share(page, [face]) == 0
    assert text_share(page, [face + np.array([450, 0, 450, 0])]) == text_share(page)


def test_text_boxes_are_grown_by_as_much_as_the_network_shrinks_them_turned_ones_too() -> None:
    scores = np.zeros((200, 300), np.float32)
    cv2.fillPoly(scores, [cv2.boxPoints(((150, 100), (120, 20), 30)).astype(np.int32)], 0.9)
    scores[5:9, 5:40] = 0.4  # marked, but not surely text
    (box,) = text_boxes(scores)
    _, sides, _ = cv2.minAreaRect(box)
    grown = 1.6 * 120 * 20 / (120 + 20)
    assert sorted(sides) == pytest.approx([20 + grown, 120 + grown], abs=4)
    assert box.mean(axis=0) == pytest.approx([150, 100], abs=1)


def redness(folder: Path, **form: Any) -> ExplicitDetector:
    return ExplicitDetector(explicit(folder / "explicit.onnx", **form))


def test_pictures_are_counted_whatever_the_file_states() -> None:
    """Film, the same at half of its rate, and two slideshows; noise makes every frame different."""
    film, noise = pan(91, 3).astype(np.int16), np.random.default_rng(0)
    found = {}
    for each in (1, 2, 8, 15):
        shown = film[np.arange(90) // each * each]
        frames = np.clip(shown + noise.integers(-3, 4, shown.shape), 0, 255).astype(np.uint8)
        assert run(RepeatedFrames(), frames)["repeated_frames"] == 0
        found[each] = run(DistinctPictures(), frames)["distinct_rate"]
    assert found == {each: pytest.approx(30 / each, rel=0.3) for each in found}


def test_a_picture_without_change_has_no_rate() -> None:
    assert run(DistinctPictures(), still(texture(), 60)) == {"distinct_rate": None}
    assert run(DistinctPictures(), pan(11, 1)) == {"distinct_rate": None}  # under a second


@pytest.mark.parametrize("batch", [1, None])
def test_explicit_content_is_the_highest_score_of_the_person_and_surroundings(
    tmp_path: Path, batch: int | None
) -> None:
    detector = redness(tmp_path, batch=batch)
    red = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red[..., 0] = 204
    # A picture of 180 x 240 fills three quarters of the network's square, the rest is black.
    assert detector(red) == pytest.approx(0.8 * 0.75, abs=0.01)
    frames = still(np.zeros_like(red), 90)
    frames[60:, 70:110, 100:140] = red[0, 0]  # a corner of the person's box
    found = run(ExplicitContent(detector, 3), frames, [[standing()]] * 90)["unsafe"]
    assert found > 1.2 * run(ExplicitContent(detector, 3), frames)["unsafe"] > 0
    assert ExplicitContent(detector, 3).result() == {"unsafe": None}


def test_explicit_content_must_be_seen_again_to_count(tmp_path: Path) -> None:
    red = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red[..., 0] = 255
    once = still(np.zeros_like(red), 90)
    once[0] = red
    lasting = once.copy()
    lasting[:10] = red
    detector = redness(tmp_path)
    assert run(ExplicitContent(detector, 3), once)["unsafe"] == 0
    assert run(ExplicitContent(detector, 3), lasting)["unsafe"] == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"channels": 1}, r"where \(n, 3, height, width\) is needed"),
        ({"scores": 2}, r"arrays of shapes \[\(1, 2\)\]: give an ONNX file of one input"),
        ({"twice": True}, r"arrays of shapes \[\(1, 1\), \(1, 1\)\]: give an ONNX file of one input"),
        ({"double": True}, "cannot be run on one picture .*: give an ONNX file of one input"),
    ],
)
def test_a_detector_of_another_form_is_refused_in_a_sentence(
    tmp_path: Path, form: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{tmp_path}/explicit.onnx .*{sentence}"):
        redness(tmp_path, **form)


def test_a_detector_that_gives_no_score_fails_rather_than_passes(tmp_path: Path) -> None:
    detector = redness(tmp_path, factor=np.nan)
    with pytest.raises(ValueError, match=r"explicit\.onnx gave nan for a picture"):
        run(Quality(ExplicitContent(detector, 1)), still(texture(), 10))


def test_what_cannot_be_measured_is_none() -> None:
    empty = run(Quality(), still(np.full((HEIGHT, WIDTH, 3), 128, np.uint8), 30))
    assert {name for name, value in empty.items() if value is None} == {
        "distinct_rate",
        "blur",
        "subject_motion",
        "camera_motion",
    }
    assert all(value is None for value in Quality().result().values())


def test_quality_does_not_depend_on_chunks_and_models_are_counted() -> None:
    frames, people = pan(40, 1), [[standing()]] * 40
    times = np.arange(40) / 30
    whole = Quality()
    with collect() as seconds:
        whole.update(frames, people, times)
    assert seconds["model"] > 0
    assert run(Quality(), frames, people) == whole.result()


@pytest.mark.parametrize("side", [48, 96])
def test_measures_keep_no_frames_that_the_next_chunk_overwrites(side: int) -> None:
    frames = np.repeat(pan(5, 9)[:, :side, :side], 8, axis=0)  # each chunk stands still
    fresh, overwritten, memory = Quality(), Quality(), np.empty((8, side, side, 3), np.uint8)
    for first in range(0, 40, 8):
        chunk, times = frames[first : first + 8], np.arange(first, first + 8) / 30
        memory[:] = chunk
        fresh.update(chunk, [[]] * 8, times)
        overwritten.update(memory, [[]] * 8, times)
    assert fresh.result() == overwritten.result()
    assert fresh.result()["repeated_frames"] == 35 / 39


def test_hashes_of_three_moments_survive_another_size_and_noise() -> None:
    clip = np.concatenate([still(texture(seed, grain=30), 40) for seed in range(3)])
    small = np.stack([cv2.resize(frame, (160, 120), interpolation=cv2.INTER_AREA) for frame in clip])
    noisy = np.clip(small.astype(int) + np.random.default_rng(0).integers(-6, 7, small.shape), 0, 255).astype(
        np.uint8
    )
    a, b = (run(PerceptualHashes(), frames)["perceptual_hashes"] for frames in (clip, noisy))
    assert len(a) == 3 and len(set(a)) == 3
    assert near_duplicates(hash_numbers(pa.chunked_array([[a, b]])), 6) == {1: 0}


def test_hashes_are_read_as_numbers() -> None:
    numbers = [[0, 2**64 - 1, 2**63], [1, 2, 0xFC38497A9C1B432E], [3, 4, 5]]
    column = pa.chunked_array([[as_text(numbers[0])], [as_text(row) for row in numbers[1:]]])
    assert hash_numbers(column).tolist() == numbers
    assert hash_numbers(column.slice(1)).tolist() == numbers[1:]


@pytest.mark.parametrize(
    ("seed", "expected"),  # by the package imagehash
    [(0, "e205694d913df2f4"), (1, "fc38497a9c1b432e"), (2, "a258f56ef00e63b8")],
)
def test_hashes_are_those_of_earlier_datasets(seed: int, expected: str) -> None:
    assert perceptual_hash(texture(seed)[..., 0]) == expected


def random_hashes(rng: random.Random) -> list[int]:
    return [rng.getrandbits(64) for _ in range(3)]


def as_text(numbers: list[int]) -> list[str]:
    return [f"{number:016x}" for number in numbers]


@settings(max_examples=50)
@given(st.randoms(use_true_random=False), st.integers(0, 10), st.integers(1, 40))
def test_near_duplicates_equal_the_comparison_of_all_pairs(rng: random.Random, bits: int, count: int) -> None:
    originals = [random_hashes(rng) for _ in range(4)]
    hashes = []
    for _ in range(count):
        numbers = list(rng.choice(originals))
        for which in range(3):
            for _ in range(rng.randint(0, 4)):
                numbers[which] ^= 1 << rng.randrange(64)
        hashes.append(numbers)
    expected: dict[int, int] = {}
    for one in range(count):
        for other in range(one + 1, count):
            near = all((a ^ b).bit_count() <= bits for a, b in zip(hashes[one], hashes[other], strict=True))
            if near and one not in expected:
                expected.setdefault(other, one)
    assert near_duplicates(np.array(hashes, np.uint64), bits) == expected


def test_of_copies_the_larger_and_then_the_sharper_one_stays() -> None:
    copies = [("a", 640, 0.2), ("b", 1280, 0.5), ("c", 1280, 0.3), ("d", 1280, None), ("e", 1280, 0.3)]
    rows = [
        {
            "clip_id": name,
            "perceptual_hashes": as_text([1, 2, 3]),
            "width": width,
            "height": 480,
            "blur": blur,
        }
        for name, width, blur in copies
    ]
    found = duplicates(
        pa.Table.from_pylist(rows, JOINED.empty_table().select(LOOKS).schema), Thresholds((), 4)
    )
    assert found == dict.fromkeys("abde", "c")


def test_a_crowd_of_equal_clips_is_one_clip_and_quickly_found() -> None:
    others = np.random.default_rng(0).integers(0, 2**64, (20_000, 3), np.uint64)
    found = near_duplicates(np.concatenate([others, np.tile(np.array([1, 2, 3], np.uint64), (20_000, 1))]), 6)
    assert len(found) == 19_999 and set(found.values()) == {20_000}
    assert near_duplicates(np.empty((0, 3), np.uint64), 6) == {}

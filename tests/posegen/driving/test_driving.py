"""Driving videos: rates and sizes, who is followed, gaps, and where the person lands in the picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from mini_model.puppets import Puppet, Scene, reference, render
from posegen.driving.alignment import align, fit, fit_picture, outside, shots
from posegen.driving.driving_video import (
    Driving,
    VideoFrames,
    fill_gaps,
    picture_pose,
    place_on_picture,
    read_driving,
)
from posegen.driving.framing import framing_of
from posegen.driving.main_person import follow
from posegen.driving.poses import Person, load_estimator
from posegen.driving.skeleton import BODY, KEYPOINT_INDEX, standing_height
from posegen.video import VideoError, probe, read_frames, save_video
from testkit.tiny_model import walking, whole
from testkit.videos import numbered_picture, write_video

SIZE = (192, 320)


class RedDot:
    """An estimator of people who are red corners: their nose is where the red is, in pixels of the frame."""

    resets = 0

    def reset(self) -> None:
        self.resets += 1

    def __call__(self, frames: np.ndarray) -> list[list[Person]]:
        return [self._people(frame.astype(int)) for frame in frames]

    def _people(self, frame: np.ndarray) -> list[Person]:
        rows, columns = np.nonzero(frame[..., 0] - frame[..., 1:].max(axis=2) > 60)
        if not len(rows):
            return []
        keypoints = np.zeros((133, 3), np.float32)
        keypoints[0] = columns.mean(), rows.mean(), 1
        return [person((columns.min(), rows.min(), columns.max(), rows.max()), keypoints)]


def person(
    box: tuple[float, float, float, float], keypoints: np.ndarray | None = None, track: int = -1
) -> Person:
    if keypoints is None:
        keypoints = np.full((133, 3), box[0], np.float32)
    return Person(np.array(box, np.float32), 1.0, keypoints, track)


@pytest.mark.parametrize(
    ("unit", "frames", "rate", "expected"),
    [(Fraction(1, 25), 50, 30, 60), (Fraction(1, 60), 60, 30, 30), (Fraction(1001, 24000), 24, 16, 16)],
)
def test_any_rate_becomes_the_models(
    tmp_path: Path, unit: Fraction, frames: int, rate: float, expected: int
) -> None:
    path = write_video(tmp_path / "video.mp4", range(frames), unit)
    estimator = RedDot()
    driving = read_driving(path, rate, estimator)
    assert driving.keypoints.shape == (expected, 133, 3) and driving.keypoints.dtype == np.float32
    assert driving.size == (160, 96) and not driving.gaps and estimator.resets == 1
    np.testing.assert_allclose(driving.keypoints[:, 0, :2], [[19.5, 11.5]] * expected, atol=2)


def test_frames_without_the_person_are_filled_and_told(tmp_path: Path) -> None:
    def hidden(number: int) -> np.ndarray:
        picture = numbered_picture(number)
        if number in (0, 1, 10, 11, 12, 29):
            picture[:] = 0
        return picture

    path = write_video(tmp_path / "video.mp4", picture=hidden)
    driving = read_driving(path, 30, RedDot())
    assert driving.gaps == ((0, 2), (10, 13), (29, 30))
    assert np.isfinite(driving.keypoints).all()


def test_it_is_told_where_nobody_is_seen_and_where_another_is_followed() -> None:
    poses = np.zeros((90, 133, 3), np.float32)
    nobody, other = Driving(poses, SIZE, ((0, 30), (75, 90)), (45,)).notes(30)
    assert "0.0 to 1.0 s, 2.5 to 3.0 s" in nobody and "At 1.5 s the person who is followed changes" in other
    assert Driving(poses, SIZE).notes(30) == []


def test_a_video_in_which_another_person_takes_over_says_so(tmp_path: Path) -> None:
    def picture(index: int) -> np.ndarray:
        frame = np.zeros((96, 160, 3), np.uint8)
        left = 10 if index < 40 else 100
        frame[10:80, left : left + 40] = (250, 0, 0)
        return frame

    path = write_video(tmp_path / "video.mp4", range(90), picture=picture)
    assert read_driving(path, 30, RedDot()).others == (40,)


def test_a_video_without_people_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", picture=lambda _: np.zeros((96, 160, 3), np.uint8))
    with pytest.raises(VideoError, match=r"video\.mp4: there is nobody"):
        read_driving(path, 30, RedDot())


def test_a_short_gap_of_the_video_is_filled_and_a_long_one_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", [*range(30), *range(90, 120)])
    driving = read_driving(path, 30, RedDot())
    assert driving.gaps == ((30, 90),) and len(driving.keypoints) == 120
    path = write_video(tmp_path / "jumps.mp4", [*range(30), *range(3_000_000, 3_000_030)])
    for read in (
        lambda: read_driving(path, 30, RedDot(), seconds=5),
        lambda: VideoFrames(path, 30, (96, 64)),
    ):
        with pytest.raises(
            VideoError, match=r"jumps\.mp4: it holds no pictures from 1\.0 s to 100000\.0 s; give"
        ):
            read()


def shortened(source: Path, target: Path) -> Path:
    """The same MP4 with headers that state a tenth of its length (ISO 14496-12, 8.2.2, 8.3.2, 8.4.2: version 0)."""
    data = bytearray(source.read_bytes())
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        start = data.index(box) + offset
        stated = int.from_bytes(data[start : start + 4], "big")
        data[start : start + 4] = (stated // 10).to_bytes(4, "big")
    target.write_bytes(data)
    return target


def test_a_video_over_the_limit_is_refused_whatever_its_headers_state(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "video.mp4", range(90))
    for path in (whole, shortened(whole, tmp_path / "shortened.mp4")):
        estimator = RedDot()
        with pytest.raises(VideoError, match=r"it is 3\.0 s long; give at most 2\.5 s"):
            read_driving(path, 30, estimator, seconds=2.5)
        assert not estimator.resets, "it was refused before a picture was decoded"
        assert len(read_driving(path, 30, estimator, seconds=3).keypoints) == 90


def test_gaps_are_walked_through_evenly_and_ends_stand_still() -> None:
    poses = np.ones((8, 133, 3), np.float32) * np.arange(8, dtype=np.float32)[:, None, None]
    poses[:, :, 2] = np.array([9, 1, 1, 9, 9, 0.2, 1, 9])[:, None]
    poses[[0, 3, 4, 7]] = np.nan
    filled, gaps = fill_gaps(poses)
    assert gaps == ((0, 1), (3, 5), (7, 8))
    np.testing.assert_allclose(filled[:, 5, 0], [1, 1, 2, 3, 4, 5, 6, 6])
    # What one end does not show has no place to move to.
    np.testing.assert_allclose(filled[:, 5, 2], [1, 1, 1, 0.2, 0.2, 0.2, 1, 1])


def seen(people: list[list[Person]], patience: int = 2) -> list[float]:
    """The first row of the followed keypoints: whose box they come from."""
    return follow(people, patience, 100)[:, 0, 0].tolist()


def test_the_largest_for_longest_is_followed_from_their_first_frame_on() -> None:
    foot, woman = person((50, 60, 60, 70)), person((10, 0, 40, 90))
    assert seen([[foot]] * 30 + [[foot, woman]] * 20) == pytest.approx([np.nan] * 30 + [10] * 20, nan_ok=True)


def test_where_the_followed_one_ends_another_large_one_is() -> None:
    close, whole = person((1, 0, 90, 100)), person((60, 50, 70, 98))
    assert seen([[close]] * 5 + [[whole]] * 5) == [1] * 5 + [60] * 5
    passing = [[close]] * 9 + [[whole]] * 1
    assert seen(passing, patience=4) == pytest.approx([1] * 9 + [np.nan], nan_ok=True)


def test_nobody_else_is_followed_while_one_is_waited_for() -> None:
    here, near, far = person((50, 0, 60, 20)), person((52, 0, 62, 20)), person((1, 0, 11, 20))
    frames = [[here, far], [far, near], [far], [near], [far]]
    assert seen([[here]] * 5 + frames) == pytest.approx([50] * 5 + [50, 52, np.nan, 52, np.nan], nan_ok=True)


def test_a_track_is_followed_wherever_it_goes() -> None:
    first = [person((0, 0, 10, 20), track=4)]
    then = [person((0, 0, 10, 20), track=5), person((80, 0, 90, 20), track=4)]
    assert seen([first, first, then], patience=30) == [0, 0, 80]


@pytest.mark.parametrize("how", ["crop", "pad"])
@pytest.mark.parametrize("source", [(100, 50), (37, 91), (64, 96), (640, 480)])
def test_pictures_and_keypoints_land_alike(source: tuple[int, int], how: str) -> None:
    target = (64, 96)
    scale = fit(source, target, how).scale  # type: ignore[arg-type]
    picture = np.zeros((source[1], source[0], 3), np.uint8)
    spot = source[0] // 2 + 3, source[1] // 2 - 5
    cv2.circle(picture, spot, 2, (255, 255, 255), cv2.FILLED)
    fitted = fit_picture(picture, target, how)  # type: ignore[arg-type]
    assert fitted.shape == (96, 64, 3)
    rows, columns = np.nonzero(fitted[..., 0] > 0)
    weights = fitted[rows, columns, 0].astype(float)
    seen = np.average(columns, weights=weights), np.average(rows, weights=weights)
    keypoints = np.zeros((133, 3), np.float32)
    keypoints[0] = *spot, 1
    expected = fit(source, target, how).keypoints(keypoints)[0, :2]  # type: ignore[arg-type]
    np.testing.assert_allclose(seen, expected, atol=max(1.0, scale))


def test_padding_shows_all_and_cropping_fills_all() -> None:
    white = np.full((50, 100, 3), 255, np.uint8)
    padded, cropped = fit_picture(white, (64, 96), "pad"), fit_picture(white, (64, 96), "crop")
    assert (padded[32:64] == 255).all() and not padded[:32].any() and not padded[64:].any()
    assert (cropped == 255).all()


@pytest.mark.parametrize("picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_picture_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"give uint8 \(height, width, 3\)"):
        fit_picture(picture, (64, 96))


def moved(poses: np.ndarray, scale: float, x: float, y: float) -> np.ndarray:
    """Poses enlarged and then shifted."""
    poses = poses.copy()
    poses[..., :2] = poses[..., :2] * scale + [x, y]
    return poses


def test_the_driving_person_is_laid_onto_the_pictures() -> None:
    standing = np.repeat(walking(1, SIZE), 30, axis=0)
    aligned = align(moved(standing, 2.5, 300, -40), standing[0])
    np.testing.assert_allclose(aligned[:, BODY, :2], standing[:, BODY, :2], atol=0.01)


def test_a_few_wrong_poses_do_not_decide_where_the_others_land() -> None:
    """Someone is seen far away and small for five frames before the person comes."""
    standing = np.repeat(walking(1, SIZE), 40, axis=0)
    driving = np.concatenate([moved(standing[:4], 0.1, 90, 5), standing])
    np.testing.assert_allclose(align(driving, standing[0])[4:, BODY], standing[:, BODY], atol=0.5)


def test_each_shot_is_laid_for_itself() -> None:
    walk = walking(30, SIZE)
    close = moved(walk, 4, -100, -60)
    driving = np.concatenate([close, walk, moved(walk, 1, 150, 0)])
    assert shots(driving) == [(0, 30), (30, 60), (60, 90)]
    aligned = align(driving, walk[0])
    heights = [standing_height(pose) for pose in aligned]
    assert max(heights) < 1.5 * min(heights)
    for start in (0, 30, 60):
        np.testing.assert_allclose(aligned[start : start + 30], aligned[:30], atol=0.1)


def test_who_moves_fast_or_is_mistaken_for_a_frame_stays_in_one_shot() -> None:
    walk = walking(40, SIZE)
    height = standing_height(walk[0])
    walk[..., 0] += 0.15 * height * np.arange(40)[:, None]
    walk[20, :, :2] = 5
    assert shots(walk) == [(0, 40)]
    assert shots(walk[:3]) == [(0, 3)]


def test_who_lands_outside_the_picture_is_told_of() -> None:
    walk = walking(10, SIZE)
    assert outside(walk, SIZE) == 0
    assert outside(np.concatenate([walk, moved(walk, 1, 500, 0)]), SIZE) == 0.5
    driving = Driving(moved(walk, 1, 0, 0), SIZE)
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    far = moved(walk[:1], 6, -900, -900)[0]
    with pytest.warns(UserWarning, match="In 100% of the frames most of the person lies outside"):
        place_on_picture(driving, image, SIZE, 30, Sees(far))


class Sees:
    """An estimator that sees the same pose in every frame."""

    def __init__(self, pose: np.ndarray) -> None:
        self.pose = pose

    def reset(self) -> None:
        pass

    def __call__(self, frames: np.ndarray) -> list[list[Person]]:
        return [[person((0, 0, 10, 20), self.pose)]] * len(frames)


def test_alignment_needs_no_equal_pose() -> None:
    """Arms up in the picture, down in the video: trunk and size still agree."""
    target = walking(1, SIZE)[0]
    for side in ("left", "right"):
        for joint in ("elbow", "wrist"):
            shoulder = target[KEYPOINT_INDEX[f"{side}_shoulder"], 1]
            row = target[KEYPOINT_INDEX[f"{side}_{joint}"]]
            row[1] = 2 * shoulder - row[1]
    driving = np.repeat(walking(1, SIZE), 10, axis=0)
    aligned = align(moved(driving, 0.5, 7, 9), target)
    trunk = [KEYPOINT_INDEX[f"{side}_{joint}"] for side in ("left", "right") for joint in ("shoulder", "hip")]
    np.testing.assert_allclose(aligned[0, trunk, :2], target[trunk, :2], atol=2)


def test_alignment_without_a_common_part_is_refused() -> None:
    legs, arms = walking(5, SIZE), walking(1, SIZE)[0]
    legs[:, :11, 2] = 0
    arms[11:, 2] = 0
    with pytest.raises(ValueError, match='choose align="none"'):
        align(legs, arms)


def test_left_as_it_is_the_driving_frame_is_fitted_like_the_picture() -> None:
    driving = Driving(walking(5, (320, 320)), (320, 320))
    placed = place_on_picture(driving, np.zeros((10, 10, 3), np.uint8), SIZE, 30, RedDot(), "none")
    np.testing.assert_allclose(placed, fit((320, 320), SIZE).keypoints(driving.keypoints))


def test_who_is_missed_in_a_large_picture_is_found_in_a_smaller_one() -> None:
    """BlazePose sees this puppet at a quarter of the size only."""
    puppet, scene = Puppet.sample(3_000_000), Scene.sample(3_000_000)
    large, small = (reference(puppet, scene, 3_000_000, size) for size in ((256, 384), (64, 96)))
    estimator = load_estimator("blazepose")
    pose = fit((256, 384), (64, 96)).keypoints(picture_pose(large, estimator))
    np.testing.assert_allclose(pose[BODY, :2], picture_pose(small, estimator)[BODY, :2], atol=3)


def test_a_puppets_video_lands_on_its_picture(tmp_path: Path) -> None:
    """The whole way with the real estimator: a wide video of a small person, a tall picture of a large one."""
    puppet, scene = Puppet.sample(3), Scene.sample(3)
    poses = walking(6, (400, 400))
    poses[..., :2] = poses[..., :2] * 0.75 + [180, 60]
    save_video(render(puppet, scene, whole(poses), (640, 400)).frames, tmp_path / "video.mp4", 15)
    image = reference(puppet, scene, 0, (256, 384))
    estimator = load_estimator("blazepose")
    placed = place_on_picture(tmp_path / "video.mp4", image, SIZE, 15, estimator)
    assert placed.shape == (6, 133, 3)
    expected = fit((256, 384), SIZE).keypoints(picture_pose(image, estimator))
    trunk = [KEYPOINT_INDEX[f"{side}_{joint}"] for side in ("left", "right") for joint in ("shoulder", "hip")]
    middles = placed[0, trunk, :2].mean(axis=0), expected[trunk, :2].mean(axis=0)
    np.testing.assert_allclose(*middles, atol=0.03 * SIZE[1])


def test_frames_of_a_video_are_read_in_any_order(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", range(20), Fraction(1, 20))
    frames = VideoFrames(path, 40, (80, 48))
    assert len(frames) == 40
    wanted = np.array([39, 3, 4, 4, 0])
    every = np.concatenate(list(read_frames(probe(path), np.repeat(np.arange(20), 2), (80, 48))))
    assert np.array_equal(frames[wanted], every[wanted])
    assert frames.tobytes() == path.read_bytes()


def test_framing_tells_what_is_seen() -> None:
    poses = walking(5, SIZE)
    assert framing_of(poses, SIZE) == "full-body"
    assert framing_of(poses * [0.3, 0.3, 1], SIZE) == "distant"
    assert framing_of(poses * [1.6, 1.6, 1], SIZE) == "half-body"
    head = poses.copy()
    head[:, 7:, 2] = 0
    assert framing_of(head, SIZE) == "close-up"
    assert framing_of(poses[:0], SIZE) == "distant"

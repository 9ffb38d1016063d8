"""Hands land where the poses of their person do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from posegen.driving.alignment import Placed, Similarity, fit
from posegen.driving.hands import hands_on_picture
from posegen.video import save_video


def with_spot(x: float, y: float, size: tuple[int, int] = (160, 120)) -> np.ndarray:
    """A black picture of (width, height) with a soft spot at x, y."""
    rows, columns = np.mgrid[: size[1], : size[0]]
    brightness = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 50)
    return np.repeat(brightness[..., None], 3, axis=2).round().astype(np.uint8)


def centre(picture: np.ndarray) -> np.ndarray:
    """Where the spot is, x and y."""
    weights = picture[..., 0].astype(float)
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]]
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("scale", [0.3, 0.5, 1.0, 1.7])
def test_pictures_land_where_keypoints_do(scale: float) -> None:
    where = Similarity(scale, (5.0, -20.0 * scale))
    landed = where.pictures(with_spot(70, 50)[None], (200, 100))
    assert landed.shape == (1, 100, 200, 3)
    expected = where.keypoints(np.array([70, 50, 1], np.float32))[:2]
    np.testing.assert_allclose(centre(landed[0]), expected, atol=0.25)


def test_two_similarities_in_one_are_one_after_the_other() -> None:
    first, second = Similarity(0.5, (3.0, 4.0)), Similarity(3.0, (-1.0, 2.0))
    pose = np.array([[10, 20, 1], [-5, 7, 0.5]], np.float32)
    expected = second.keypoints(first.keypoints(pose))
    np.testing.assert_allclose(second.after(first).keypoints(pose), expected)


def test_each_span_of_a_video_is_placed_by_its_own(tmp_path: Path) -> None:
    size = (1600, 1200)  # larger than it is looked at
    frames = np.stack([with_spot(800 + 40 * number, 600, size) for number in range(6)])
    save_video([frames], tmp_path / "video.mp4", 8)
    whole, half = fit(size, (160, 120)), Similarity(0.05, (0.0, 0.0))
    placed = [Placed(0, 4, whole), Placed(4, 6, half)]
    seen: list[tuple[int, ...]] = []

    def hands(looked_at: np.ndarray) -> np.ndarray:
        seen.append(looked_at.shape)
        return looked_at

    made = np.concatenate([*hands_on_picture(tmp_path / "video.mp4", 8, placed, (160, 120), hands)])
    assert seen == [(4, 768, 1024, 3), (2, 768, 1024, 3)]
    for number, picture in enumerate(made):
        where = whole if number < 4 else half
        expected = where.keypoints(np.array([800 + 40 * number, 600, 1], np.float32))[:2]
        np.testing.assert_allclose(centre(picture), expected, atol=0.5)

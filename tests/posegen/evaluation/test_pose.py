"""Shifted, lost and perfect poses."""

from __future__ import annotations

import numpy as np
import pytest

from mini_model.puppets import motion_of
from posegen.driving.skeleton import BODY, FEET, LEFT_HAND, standing_height
from posegen.evaluation.pose import AREA, NEAR, SIGMAS, oks, pose_figures


def poses() -> np.ndarray:
    found = motion_of("walk", 3, 6, size=(256, 384), framing=1.0).astype(np.float64)
    found[..., 2] = 1
    return found


def test_a_perfect_pose_scores_perfectly() -> None:
    asked = poses()
    found = pose_figures(asked, asked)
    for name in ("oks_body", "oks_hands", "pck_body", "pck_hands"):
        np.testing.assert_allclose(found[name], 1)
    np.testing.assert_allclose(found["joint_error"], 0)
    np.testing.assert_allclose(found["missed"], 0)


def test_a_shifted_pose_is_found_with_its_shift() -> None:
    asked = poses()
    shifted = asked + np.array([12, 0, 0])
    found = pose_figures(shifted, asked)
    heights = np.array([standing_height(pose) for pose in asked])
    np.testing.assert_allclose(found["joint_error"], 12 / heights)
    body = slice(BODY.start, FEET.stop)
    similar = np.exp(-(12**2) / (2 * AREA * heights[0] ** 2 * (2 * SIGMAS[body]) ** 2)).mean()
    assert found["oks_body"][0] == pytest.approx(similar)
    assert oks(shifted[0], asked[0], AREA * heights[0] ** 2, body) == pytest.approx(similar)


def test_pck_counts_joints_within_a_fifth_of_the_torso() -> None:
    asked = poses()
    far = asked.copy()
    far[:, : FEET.stop : 2, 0] += 2 * NEAR * 0.5 * 384  # every other joint by more than a torso's fifth
    found = pose_figures(far, asked)
    np.testing.assert_allclose(found["pck_body"], 11 / 23)  # of 23, those with odd numbers stay
    np.testing.assert_allclose(found["pck_hands"], 1)


def test_a_frame_without_anybody_is_wrong_in_every_joint() -> None:
    asked = poses()
    found = asked.copy()
    found[2] = np.nan
    figures = pose_figures(found, asked)
    assert figures["missed"].tolist() == [0, 0, 1, 0, 0, 0]
    assert figures["oks_body"][2] == figures["pck_body"][2] == figures["oks_hands"][2] == 0
    assert np.isnan(figures["joint_error"][2])  # nothing to measure a distance to


def test_hands_are_counted_apart() -> None:
    asked = poses()
    found = asked.copy()
    found[:, LEFT_HAND, :2] += 500
    figures = pose_figures(found, asked)
    np.testing.assert_allclose(figures["oks_body"], 1)
    np.testing.assert_allclose(figures["oks_hands"], 0.5)


def test_what_was_not_asked_for_is_not_counted() -> None:
    asked = poses()
    asked[..., 2] = 0
    figures = pose_figures(poses(), asked)
    for values in figures.values():
        assert np.isnan(values).all()

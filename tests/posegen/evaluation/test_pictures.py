"""Figures of generated video on made cases whose answers are known: drifts, seams, shifts and jumps of known size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from mini_model.puppets import Puppet, PuppetClip, Scene, motion_of, reference, render
from posegen.evaluation.background import Backgrounds, background_error, grown
from posegen.evaluation.colour import lab
from posegen.evaluation.fidelity import psnr, ssim
from posegen.evaluation.identity import identity_error, part_colours
from posegen.evaluation.silhouettes import find_person, iou, person_colours

SIZE = (64, 96)
FRAMES = 9


def walk(seed: int, **looks: Any) -> tuple[PuppetClip, np.ndarray]:
    """A puppet's clip before a still camera, and its reference picture."""
    puppet, scene = replace(Puppet.sample(seed), **looks), replace(Scene.sample(seed), still=True)
    keypoints = motion_of("walk", seed, FRAMES, size=SIZE, framing=1.0)
    return render(puppet, scene, keypoints, SIZE), reference(puppet, scene, seed, SIZE, like=keypoints)


def test_psnr_is_that_of_the_formula() -> None:
    truth = np.full((2, 4, 4, 3), 100, np.uint8)
    assert psnr(truth + 10, truth) == pytest.approx(10 * np.log10(255**2 / 100))
    assert psnr(truth - 10, truth) == psnr(truth + 10, truth)  # no wrap-around of uint8
    assert psnr(truth, truth) == np.inf


def test_lab_is_that_of_the_standard() -> None:
    """Red, green and white of sRGB under D65 (CIE 15)."""
    colours = np.array([[255, 0, 0], [0, 255, 0], [255, 255, 255]], np.uint8)
    expected = np.array([[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [100, 0, 0]])
    np.testing.assert_allclose(lab(colours), expected, atol=0.3)


def test_iou() -> None:
    left, right = np.zeros((2, 1, 4, 4), bool)
    assert iou(left, right) == 1
    left[..., :2], right[..., 1:3] = True, True
    assert iou(left, right) == pytest.approx(1 / 3)


def test_the_person_is_found_by_colour() -> None:
    found = []
    for seed in range(5):
        clip, picture = walk(seed)
        colours = person_colours(picture, clip.background[0])
        found.append(iou(find_person(clip.frames, clip.background[0], colours), clip.silhouettes))
    assert np.mean(found) > 0.9


def test_who_stands_elsewhere_is_found_elsewhere() -> None:
    """The estimator does not know the pose: the picture repeated is not taken for somebody who moves."""
    clip, picture = walk(1)
    colours, still = person_colours(picture, clip.background[0]), np.repeat(picture[None], FRAMES, axis=0)
    found = find_person(still, clip.background[0], colours)
    assert (found == found[0]).all()
    assert iou(found, clip.silhouettes) < 0.8
    assert find_person(clip.background, clip.background[0], colours).mean() < 0.02


def test_a_picture_without_a_person_has_no_colours_of_theirs() -> None:
    clip, _ = walk(2)
    with pytest.raises(ValueError, match="background alone"):
        person_colours(clip.background[0], clip.background[0])


def test_identity_error_is_of_the_clothes_that_differ() -> None:
    plain = {"pattern": "plain", "legwear": "trousers"}
    clip, _ = walk(4, **plain, shirt=(200, 40, 40), legs=(40, 40, 200))
    other, _ = walk(4, **plain, shirt=(40, 200, 40), legs=(40, 40, 200))
    truth = clip.keypoints, clip.silhouettes
    assert identity_error(clip.frames, clip.frames, *truth) == 0
    error = identity_error(other.frames, clip.frames, *truth)
    shirts = np.linalg.norm(np.subtract(*lab(np.array([[200, 40, 40], [40, 200, 40]], np.uint8))))
    parts = part_colours(clip.frames, clip.keypoints, clip.silhouettes)
    assert error == pytest.approx(shirts / len(parts), rel=0.25)  # one part of so many


def test_parts_have_the_colours_of_the_puppet() -> None:
    clip, _ = walk(4, pattern="plain", legwear="trousers", shirt=(200, 40, 40), legs=(40, 40, 200))
    parts = part_colours(clip.frames, clip.keypoints, clip.silhouettes)
    for part, colour in {"shirt": (200, 40, 40), "legs": (40, 40, 200)}.items():
        np.testing.assert_allclose(np.median(parts[part], axis=0), lab(np.array(colour, np.uint8)), atol=6)
    nowhere = part_colours(clip.frames, clip.keypoints, np.zeros_like(clip.silhouettes))
    assert not nowhere


def test_blur_lowers_what_is_found_but_not_to_nothing() -> None:
    """As after a codec; the background is known as blurred."""
    clip, picture = walk(3)
    colours = person_colours(picture, clip.background[0])
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.0) for frame in clip.frames])
    behind = cv2.GaussianBlur(clip.background[0], (0, 0), 1.0)
    sharp = iou(find_person(clip.frames, clip.background[0], colours), clip.silhouettes)
    assert 0.75 < iou(find_person(blurred, behind, colours), clip.silhouettes) < sharp


def test_a_changed_background_is_found_with_its_size_and_the_person_does_not_count() -> None:
    video = np.full((3, 8, 8, 3), 120, np.uint8)
    person = np.zeros((3, 8, 8), bool)
    person[:, :, :4] = True
    video[1, :, :4] = 0  # the person moves
    video[2] += 20  # and then the light changes
    lighter = np.linalg.norm(np.subtract(*lab(np.array([[120] * 3, [140] * 3], np.uint8))))
    found = background_error(video, person, video[0], person[0])
    np.testing.assert_allclose(found, np.array([0, 0, lighter]), atol=1e-3)
    assert np.isnan(background_error(video, np.ones_like(person), video[0])).all()


def test_segments_that_invent_what_they_never_saw_disagree_there_and_nowhere_else() -> None:
    """Three segments: two agree behind the person, the third puts another grey there."""
    area = np.zeros((16, 16), bool)
    area[4:12, 4:12] = True
    places = np.full((3, 16, 16, 3), 120, np.uint8)
    places[2, 4:12, 4:12] = 140
    nobody, backgrounds = np.zeros((5, 16, 16), bool), Backgrounds()
    for segment, place in enumerate(places):
        backgrounds.add(segment, np.repeat(place[None], 5, axis=0), nobody)
    apart = np.linalg.norm(np.subtract(*lab(np.array([[120] * 3, [140] * 3], np.uint8))))
    assert backgrounds.disagreement(area) == pytest.approx(2 / 3 * apart, rel=1e-4)  # two of three pairs
    assert backgrounds.disagreement(~area) == 0
    assert np.isnan(backgrounds.disagreement(np.zeros_like(area)))


def test_frames_in_which_the_person_stands_there_say_nothing_of_the_background() -> None:
    backgrounds, person = Backgrounds(), np.zeros((2, 8, 8), bool)
    person[0] = True
    video = np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 120, np.uint8)])
    backgrounds.add(0, video, person)
    np.testing.assert_allclose(backgrounds.means(0), lab(video[1]), atol=1e-4)


def test_a_grown_mask_has_a_rim() -> None:
    mask = np.zeros((1, 100, 50), bool)
    mask[0, 50, 25] = True
    assert grown(mask)[0, 47:54, 25].all()
    assert grown(mask).sum() < 50


def test_ssim_is_one_for_the_same_and_falls_with_the_contrast() -> None:
    """Of two flat pictures only the means count: (2 x y + c1) / (x^2 + y^2 + c1)."""
    flat, other = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(flat, flat) == 1
    assert ssim(flat, other) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))
    clip, _ = walk(1)
    noisy = np.clip(clip.frames[0] + np.random.default_rng(0).normal(0, 20, clip.frames[0].shape), 0, 255)
    assert 0.2 < ssim(noisy.astype(np.uint8), clip.frames[0]) < 0.9
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(flat[:8], flat[:8])

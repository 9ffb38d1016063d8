"""Whole videos whose answers are known: perfect, of another person, drifting by a known slope, with a jump."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mini_model.puppets import Puppet, Scene, motion_of, render
from mini_model.puppets.calm import standing_like
from mini_model.puppets.clips import over
from mini_model.puppets.draw import draw
from posegen.driving.drawing import foreground_mask
from posegen.evaluation.colour import lab
from posegen.evaluation.identity import part_colours
from posegen.evaluation.measure import MEASUREMENTS, Instruments, Silhouettes, Subject, measure
from posegen.evaluation.perceptual import PerceptualDistance
from posegen.evaluation.silhouettes import person_colours
from posegen.longvideo.segments import plan

SIZE, RATE, FRAMES, SEED = (64, 96), 12.0, 120, 4
PLAIN: dict[str, Any] = {"pattern": "plain", "legwear": "trousers"}


@pytest.fixture(scope="module")
def perfect() -> Subject:
    """The true video of a puppet that walks, as if it had been generated."""
    return subject(SEED)


def subject(seed: int, **looks: Any) -> Subject:
    puppet = replace(Puppet.sample(seed), **PLAIN, **looks)
    scene = replace(Scene.sample(seed), still=True)
    keypoints = motion_of("walk", SEED, FRAMES, size=SIZE, framing=1.0)
    clip = render(puppet, scene, keypoints, SIZE, RATE)
    pose = standing_like(SEED, keypoints)
    picture = over(draw(puppet, pose[None], SIZE), scene.backgrounds(1, SIZE))[0]
    masks = np.repeat(clip.silhouettes[..., None], 3, axis=3).astype(np.uint8) * 255
    colours = person_colours(picture, clip.background[0])
    return Subject(
        "made",
        clip.frames,
        RATE,
        picture,
        pose,
        clip.keypoints,
        plan(FRAMES, 33, 5, 4).segments,
        clip.frames,
        Silhouettes(masks, clip.background[0], colours),
    )


def test_a_perfect_video_scores_perfectly(perfect: Subject) -> None:
    found = measure(perfect, Instruments(perceptual=PerceptualDistance()))
    assert found.curves["psnr"].shape == (10,)
    for name in ("identity_truth", "background_truth", "perceptual"):
        np.testing.assert_allclose(found.curves[name], 0, atol=1e-5)
    for name in ("background", "background_first"):
        np.testing.assert_allclose(found.curves[name], 0, atol=0.01)  # the puppet's rim beside its mask
    np.testing.assert_array_equal(found.curves["psnr"], np.inf)
    np.testing.assert_allclose(found.curves["ssim"], 1)
    assert found.curves["silhouette_iou"].min() > 0.85  # by colour alone
    assert found.unseen == pytest.approx(0, abs=0.01)
    assert found.curves["identity"].mean() < 12  # the same clothes; the head seen from elsewhere
    summary = found.summary()
    assert summary["seam_difference_middle"] == pytest.approx(1, abs=0.25)
    assert np.isnan(summary["identity_slope"])  # ten seconds are too few
    assert {line.split(" were")[0] for line in found.absent} == {"OKS, PCK and joint error", "Faces"}


def test_a_wrong_person_is_the_floor(perfect: Subject) -> None:
    other = measure(replace(perfect, video=subject(SEED, shirt=(40, 200, 40), legs=(230, 230, 20)).video))
    right = measure(perfect)
    assert other.curves["identity"].min() > 2 * right.curves["identity"].max()
    assert other.curves["identity_truth"].min() > 15
    assert other.curves["background"].max() == pytest.approx(0, abs=0.01)  # the place is right


def test_an_identity_that_drifts_is_found_with_its_slope() -> None:
    """The shirt's green rises by a level every two frames; of the parts seen, the shirt alone drifts."""
    steps = np.arange(FRAMES) // 2
    levels = np.unique(steps)[::10]
    videos = {step: np.array(subject(SEED, shirt=(120, 60 + int(step), 120)).video) for step in levels}
    still = subject(SEED, shirt=(120, 60, 120))
    drifting = np.stack([videos[step // 10 * 10][frame] for frame, step in enumerate(steps)])
    found = measure(replace(still, video=drifting))
    shirts = np.array([[120, 60 + step // 10 * 10, 120] for step in steps], np.uint8)
    distance = np.linalg.norm(lab(shirts) - lab(shirts[0]), axis=1).reshape(10, 12).mean(axis=1)
    assert found.curves["identity_truth"][0] == pytest.approx(0, abs=1e-5)
    person = np.stack([foreground_mask(pose, SIZE) for pose in still.keypoints])
    video = np.array(still.video)
    parts = [len(part_colours(video[at], still.keypoints[at], person[at])) for at in still.seconds()]
    expected = np.polyfit(np.arange(10), distance / parts, 1)[0]  # of the parts seen, one drifts
    assert np.polyfit(np.arange(10), found.curves["identity_truth"], 1)[0] == pytest.approx(
        expected, rel=0.05
    )


def test_a_background_that_jumps_is_found_when_it_does_and_with_its_size(perfect: Subject) -> None:
    clip = np.array(perfect.video)
    mask = np.array(perfect.silhouettes.masks[np.arange(FRAMES)]) > 127 if perfect.silhouettes else clip > 0
    lighter = np.where(mask, clip, np.clip(clip.astype(int) + 15, 0, 255)).astype(np.uint8)
    jumped = np.concatenate([clip[:60], lighter[60:]])
    found = measure(replace(perfect, video=jumped))
    curve = found.curves["background_first"]
    np.testing.assert_allclose(curve[:5], 0, atol=0.01)
    expected = np.linalg.norm(lab(lighter[60]) - lab(clip[60]), axis=-1)[~mask[60, ..., 0]].mean()
    np.testing.assert_allclose(curve[5:], expected, rtol=0.1)
    np.testing.assert_allclose(found.curves["background"][5:], expected, rtol=0.1)
    assert found.unseen > 0.3 * expected  # segments before and after it disagree, all others agree


def test_every_measurement_is_a_row(perfect: Subject) -> None:
    found = measure(perfect)
    table = found.table()
    assert table.schema == MEASUREMENTS
    rows = table.to_pylist()
    psnr = [row for row in rows if row["metric"] == "psnr"]
    assert [(row["start"], row["stop"]) for row in psnr] == [(second, second + 1) for second in range(10)]
    seams = [row for row in rows if row["metric"] == "seam_warp_begin"]
    assert len(seams) == len(plan(FRAMES, 33, 5, 4).segments) - 1
    assert all(row["inside"] is not None for row in seams)


def test_poses_of_another_video_are_refused(perfect: Subject) -> None:
    with pytest.raises(ValueError, match="100 frames at 12 frames/s and the driving poses 120"):
        replace(perfect, video=np.array(perfect.video)[:100])

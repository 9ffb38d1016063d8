"""Drawn people: what is said of a clip (pose, silhouette, background, identity) is true of its pixels."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from mini_model.draw_dataset import PuppetsConfig, run
from mini_model.puppet_clips import ClipSettings, draw_clip
from mini_model.puppets import (
    ACTIONS,
    KINDS,
    Puppet,
    Scene,
    calm_start,
    kind_of,
    leave,
    motion,
    motion_of,
    reference,
    render,
    retarget,
)
from mini_model.puppets.body import Angles, Build, pose
from mini_model.puppets.draw import draw
from mini_model.puppets.scenes import PLACES
from posegen.dataset import CLIPS, KEPT, MEDIA, table, unpack_keypoints
from posegen.driving.skeleton import (
    BODY,
    FEET,
    KEYPOINT_INDEX,
    LEFT_HAND,
    RIGHT_HAND,
    VISIBLE,
    flip,
    pose_distance,
)
from posegen.video import probe, read_frames

SUBJECT_WORDS = ("woman", "girl", "man", "boy", "person")
SIZE = (64, 96)
LIMBS = [KEYPOINT_INDEX[f"{side}_{joint}"] for side in ("left", "right") for joint in
         ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")]  # fmt: skip


def grown(masks: np.ndarray, pixels: int) -> np.ndarray:
    """Masks (T, H, W) with a rim of so many pixels added, or taken away where negative."""
    kernel = np.ones((2 * abs(pixels) + 1,) * 2, np.uint8)
    change = cv2.dilate if pixels > 0 else cv2.erode
    return np.stack([change(mask.astype(np.uint8), kernel) for mask in masks]).astype(bool)


def coloured(puppet: Puppet, **changes: object) -> Puppet:
    return dataclasses.replace(puppet, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_limbs_are_drawn_where_the_keypoints_say(kind: str) -> None:
    for seed in range(3):
        keypoints = motion_of(kind, seed, 9, size=SIZE)
        clip = render(Puppet.sample(seed), Scene.sample(seed), keypoints, SIZE)
        x, y = np.round(keypoints[:, LIMBS, :2]).astype(int).transpose(2, 0, 1)
        seen = keypoints[:, LIMBS, 2] >= VISIBLE
        frame = np.broadcast_to(np.arange(9)[:, None], x.shape)
        assert clip.silhouettes[frame[seen], y[seen], x[seen]].all()


def test_a_person_moves_as_far_as_the_keypoints() -> None:
    keypoints = motion_of("dance", 5, 3, size=(128, 192), framing=1.0)
    moved = keypoints + np.array([7, -4, 0])
    puppet = Puppet.sample(5)
    first, second = draw(puppet, keypoints, (128, 192)), draw(puppet, moved, (128, 192))
    apart = second.astype(int) - np.roll(first, (-4, 7), (1, 2))
    assert np.abs(apart[:, 4:-10, 10:-4]).mean() < 0.01  # but for the rounding of corners


def test_outside_the_silhouette_is_the_background_and_inside_the_person_alone() -> None:
    for seed in range(6):
        keypoints = motion(seed, 5, size=SIZE)
        puppet = Puppet.sample(seed)
        here, there = (render(puppet, Scene.sample(place), keypoints, SIZE) for place in (seed, seed + 50))
        np.testing.assert_array_equal(here.silhouettes, there.silhouettes)
        outside, inside = ~grown(here.silhouettes, 2), grown(here.silhouettes, -1)
        np.testing.assert_array_equal(here.frames[outside], here.background[outside])
        same = (here.frames[inside] == there.frames[inside]).all(axis=-1)
        assert same.mean() > 0.97  # but for gaps narrower than a pixel, as between arm and trunk
        assert outside.any()


def test_the_difference_from_the_background_is_the_silhouette() -> None:
    puppet = Puppet.sample(1)
    clip = render(puppet, Scene.sample(1), motion(1, 9, size=SIZE), SIZE)
    differs = np.abs(clip.frames.astype(int) - clip.background).max(axis=-1) > 8
    union, shared = differs | clip.silhouettes, differs & clip.silhouettes
    assert shared.sum() / union.sum() > 0.9


def test_the_same_seeds_draw_the_same_clip_and_others_another() -> None:
    def drawn(seed: int) -> np.ndarray:
        return render(Puppet.sample(seed), Scene.sample(seed), motion(seed, 3, size=SIZE), SIZE).frames

    np.testing.assert_array_equal(drawn(11), drawn(11))
    assert len({drawn(seed).tobytes() for seed in range(20)}) == 20


def test_a_shirt_keeps_its_colour_from_frame_to_frame() -> None:
    puppet = coloured(Puppet.sample(2), pattern="plain", shirt=(200, 40, 40), width=1.0)
    keypoints = motion_of("dance", 2, 20, size=(128, 192), framing=1.0)
    person = draw(puppet, keypoints, (128, 192))
    shirt = (person == (200, 40, 40, 255)).all(axis=-1).sum(axis=(1, 2))
    assert (shirt > 100).all()


def test_the_near_arm_is_in_front_of_the_trunk_and_the_far_one_behind() -> None:
    skin, shirt = (240, 200, 170), (20, 60, 200)
    puppet = coloured(Puppet.sample(0), sleeves=0.0, pattern="plain", skin=skin, shirt=shirt, width=1.0)
    for side, yaw in (("right", np.pi / 2), ("left", -np.pi / 2)):
        angles = Angles(yaw=yaw)
        angles.right_arm.swing, angles.left_arm.swing = 0.22, -0.22
        keypoints = pose(angles, 1, Build())
        keypoints[..., :2] = keypoints[..., :2] * 360 + (128, 375)
        person = draw(puppet, keypoints, (256, 384))[0, ..., :3].astype(int)
        for arm in ("left", "right"):
            x, y = keypoints[0, KEYPOINT_INDEX[f"{arm}_elbow"], :2].round().astype(int)
            looks = person[y, x]
            to_skin, to_shirt = (
                np.abs(looks / looks.sum() - np.divide(c, sum(c))).sum() for c in (skin, shirt)
            )
            assert (to_skin < to_shirt) == (arm == side)


def test_somebody_who_faces_the_right_shows_the_right_side() -> None:
    keypoints = pose(Angles(yaw=np.pi / 2), 1, Build())[0]
    nose, left, right = keypoints[0], keypoints[3], keypoints[4]
    assert nose[0] > left[0] + 0.05
    assert right[2] >= VISIBLE > left[2]  # the far ear is hidden


def test_a_face_is_seen_from_the_front_only() -> None:
    puppet = coloured(Puppet.sample(0), eyes=(0, 255, 0), hat=None, hair_style="short", glasses=False)
    shown = []
    for yaw in (0.0, np.pi):
        keypoints = pose(Angles(yaw=yaw), 1, Build())
        keypoints[..., :2] = keypoints[..., :2] * 700 + (256, 740)
        shown.append((draw(puppet, keypoints, (512, 768))[..., :3] == (0, 255, 0)).all(axis=-1).sum())
    assert shown[0] > 10
    assert shown[1] == 0


def test_captions_have_one_subject_word_and_few_words() -> None:
    words: set[str] = set()
    for seed in range(400):
        caption = (
            f"{Puppet.sample(seed).description} {ACTIONS[kind_of(seed)]} {Scene.sample(seed).description}"
        )
        found = re.findall(r"[a-z-]+", caption)
        assert sum(found.count(word) for word in SUBJECT_WORDS) == 1, caption
        words.update(found)
    assert words <= set(" ".join([*ACTIONS.values(), *PLACES.values()]).split()) | {
        *SUBJECT_WORDS, "a", "an", "with", "no", "hair", "in", "and",
        *("short", "long", "curly", "tied", "shirt", "dress", "trousers", "shorts", "skirt"),
        *("striped", "pinstriped", "checked", "dotted", "two-coloured", "blond"),
        *("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown", "grey"),
        *("white", "black"),
    }  # fmt: skip
    clip = render(Puppet.sample(0), Scene.sample(0), motion(0, 1), action="dances")
    assert re.fullmatch(r"A .* dances (in|at) a \w+\.", clip.caption)


def test_motions_are_the_same_at_any_rate() -> None:
    for kind in KINDS:
        slow, fast = motion_of(kind, 3, 9, rate=12.0), motion_of(kind, 3, 17, rate=24.0)
        assert slow.shape == (9, 133, 3) and slow.dtype == np.float32
        if kind != "walk":  # whose way is centred on the whole clip
            assert np.median(pose_distance(slow, fast[::2])) < 0.02


def test_points_outside_the_picture_have_no_confidence() -> None:
    keypoints = motion_of("gesture", 0, 5, size=SIZE, framing=0.55)
    outside = np.any((keypoints[..., :2] < 0) | (keypoints[..., :2] > np.array(SIZE) - 1), axis=-1)
    assert outside[:, FEET].all()
    assert (keypoints[..., 2][outside] == 0).all()


def test_unknown_motions_and_unfilled_poses_are_refused() -> None:
    with pytest.raises(ValueError, match="no motion 'fly'"):
        motion_of("fly", 0, 5)
    with pytest.raises(ValueError, match="not finite"):
        render(Puppet.sample(0), Scene.sample(0), np.full((1, 133, 3), np.nan))


def test_a_still_camera_sees_one_picture_and_a_moving_one_drifts_smoothly() -> None:
    scenes = {scene.still: scene for scene in map(Scene.sample, range(30))}
    still, moving = (scenes[kind].backgrounds(24, SIZE) for kind in (True, False))
    assert (still == still[0]).all()
    steps = np.abs(np.diff(moving.astype(float), axis=0)).mean(axis=(1, 2, 3))
    assert 0 < steps.max() < 12
    view = scenes[False].camera(200)
    corners = np.array([[0, 0, 1], [1, 1, 1]])
    assert np.abs(view @ corners.T - corners.T[:2]).max() < 0.2


def test_the_reference_stands_on_the_clip_s_ground_in_its_scene() -> None:
    puppet, scene = Puppet.sample(4), Scene.sample(4)
    keypoints = motion_of("squat", 4, 25, size=(128, 192))
    clip = render(puppet, scene, keypoints, (128, 192))
    picture = reference(puppet, scene, 4, (128, 192), like=keypoints)
    differs = np.abs(picture.astype(int) - clip.background[0]).max(axis=-1) > 8
    assert (
        abs(np.flatnonzero(differs.any(axis=1)).max() - np.flatnonzero(clip.silhouettes[0].any(axis=1)).max())
        < 6
    )
    assert reference(puppet, scene, 4).shape == (96, 64, 3)


def test_real_motion_is_completed_and_keeps_its_poses() -> None:
    truth = motion_of("gesture", 8, 31, rate=30.0, size=(640, 480), framing=1.0)
    found = truth.copy()
    found[:, LEFT_HAND], found[10:14] = np.nan, np.nan
    found[:, KEYPOINT_INDEX["right_knee"], 2] = 0.1
    filled = retarget(found, 30.0, 15.0, SIZE)
    assert filled.shape == (16, 133, 3) and np.isfinite(filled).all()
    others = [index for index in (*range(17),) if index != KEYPOINT_INDEX["right_knee"]]
    seen = np.zeros(133)
    seen[others] = 1
    filled[..., 2], truth[..., 2] = filled[..., 2] * seen, truth[..., 2] * seen
    assert np.median(pose_distance(filled, truth[::2])) < 0.05
    hands = filled[:, LEFT_HAND, :2] - filled[:, KEYPOINT_INDEX["left_wrist"], None, :2]
    assert np.linalg.norm(hands, axis=-1).max() < 0.2 * SIZE[1]
    mirrored = retarget(flip(found, 640), 30.0, 15.0, SIZE)
    np.testing.assert_allclose(
        mirrored[:, BODY, 1][:, others].mean(), filled[:, BODY, 1][:, others].mean(), atol=2.0
    )


def test_real_motion_seen_from_behind_stays_so() -> None:
    found = motion_of("gesture", 8, 31, rate=30.0, size=(640, 480), framing=1.0)
    found[..., 0] = 639 - found[..., 0]  # as if the picture were seen from behind: left is left
    found[:, 0:3, 2], found[:, 23:91, 2] = 0.05, 0.05  # nose, eyes and face are hidden
    filled = retarget(found, 30.0, 30.0, SIZE)
    left, right = filled[:, KEYPOINT_INDEX["left_ear"], 0], filled[:, KEYPOINT_INDEX["right_ear"], 0]
    assert (left < right).all()
    assert (np.abs(filled[:, 0, 0] - (left + right) / 2) < 0.03 * SIZE[1]).all()
    assert (filled[:, 23 + 33, 2] < VISIBLE).all()


def test_motion_without_anybody_is_refused() -> None:
    with pytest.raises(ValueError, match="nobody"):
        retarget(np.full((5, 133, 3), np.nan, np.float32), 30.0)


@pytest.mark.parametrize("framing", [1.0, 0.55])
def test_a_calm_start_stands_and_moves_over_into_the_motion(framing: float) -> None:
    poses = motion_of("dance", 3, 33, framing=framing)
    begun = calm_start(poses, 9, seed=3)
    np.testing.assert_array_equal(begun[9:], poses[9:])
    np.testing.assert_array_equal(begun[:4], np.broadcast_to(begun[0], begun[:4].shape))
    steps = np.linalg.norm(np.diff(begun[:, BODY, :2], axis=0), axis=-1).mean(axis=1)
    assert steps.max() < 0.1 * SIZE[1]
    left, right = (begun[0, KEYPOINT_INDEX[f"{side}_wrist"]] for side in ("left", "right"))
    hips = begun[0, KEYPOINT_INDEX["left_hip"], 1]
    assert abs(left[1] - hips) < 0.15 * SIZE[1] and abs(right[1] - hips) < 0.15 * SIZE[1]  # arms hang
    start = begun[:9]
    beyond = np.any((start[..., :2] < 0) | (start[..., :2] > np.array(SIZE) - 1), axis=-1)
    assert (start[..., 2][beyond] == 0).all()
    np.testing.assert_array_equal(calm_start(poses, 0, seed=3), poses)


@pytest.mark.parametrize("seed", range(6))
def test_who_leaves_is_carried_out_of_sight_and_keeps_moving(seed: int) -> None:
    poses = motion_of("wave", seed, 40)
    gone = leave(poses, 9, seed)
    np.testing.assert_array_equal(gone[:10], poses[:10])
    way = gone[..., 0] - poses[..., 0]
    np.testing.assert_allclose(way, way[:, :1].repeat(133, axis=1), atol=1e-3)
    np.testing.assert_array_equal(gone[..., 1], poses[..., 1])
    beyond = np.any((gone[..., :2] < 0) | (gone[..., :2] > np.array(SIZE) - 1), axis=-1)
    assert (gone[..., 2][beyond] == 0).all()
    away = np.isclose(np.abs(way[:, 0]), np.abs(way).max())
    assert away.any() and beyond[away].all()
    nobody = render(Puppet.sample(seed), Scene.sample(seed), gone).silhouettes[away]
    assert not nobody.any()
    assert (leave(poses[:12], 9, seed)[:10] == poses[:10]).all()  # too short to be out of sight in time


def test_hands_have_five_fingers_at_their_points() -> None:
    keypoints = pose(Angles(), 1, Build())
    keypoints[..., :2] = keypoints[..., :2] * 360 + (128, 375)
    person = draw(Puppet.sample(0), keypoints, (256, 384))[0, ..., 3] > 127
    x, y = np.round(keypoints[0, [*range(133)][LEFT_HAND.start : RIGHT_HAND.stop], :2]).astype(int).T
    assert person[y, x].mean() > 0.95


def rows_of(folder: Path, name: str) -> list[dict]:
    files = sorted((folder / name).glob("*.parquet"))
    schema = CLIPS if name == "clips" else MEDIA
    assert all(pq.read_schema(file).equals(schema) for file in files)
    return list(itertools.chain.from_iterable(pq.read_table(file).to_pylist() for file in files))


@pytest.mark.slow
def test_the_job_writes_the_tables_of_curation(
    ray_cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = PuppetsConfig(output=str(tmp_path / "puppets"), clips=3, frames=5)
    assert run(config) == {"kept": 3, "failed": 0}
    first = rows_of(tmp_path / "puppets", "clips")
    assert run(dataclasses.replace(config, clips=5)) == {"kept": 5, "failed": 0}
    capsys.readouterr()
    assert run(dataclasses.replace(config, clips=5)) == {"kept": 5, "failed": 0}
    assert "5/5 clips, 0.0 clips/s" in capsys.readouterr().err  # all were there
    clips, media = (rows_of(tmp_path / "puppets", name) for name in ("clips", "media"))
    assert clips[:3] == first and len({row["clip_id"] for row in clips}) == 5
    assert [row["clip_id"] for row in clips] == [row["clip_id"] for row in media]
    assert clips[2] == roundtrip(draw_clip(ClipSettings.of(SIZE, 5, 12.0), 2)[0])

    keypoints = unpack_keypoints(clips[1])
    np.testing.assert_array_equal(keypoints, motion(1, 5))
    truth = render(Puppet.sample(1), Scene.sample(1), keypoints).frames
    (tmp_path / "clip.mp4").write_bytes(media[1]["media"])
    info = probe(tmp_path / "clip.mp4")
    seen = np.concatenate(list(read_frames(info, np.arange(5), SIZE)))
    assert np.abs(seen.astype(int) - truth).mean() < 12

    config = dataclasses.replace(config, output=str(tmp_path / "calm"), frames=20, calm=9)
    run(config)
    keypoints = unpack_keypoints(rows_of(tmp_path / "calm", "clips")[1])
    np.testing.assert_array_equal(keypoints[9:], motion(1, 20)[9:])
    assert (keypoints[0] != motion(1, 20)[0]).any()

    config = dataclasses.replace(config, output=str(tmp_path / "away"), frames=33, away=0.5)
    run(config)
    shown = [row["one_person"] for row in rows_of(tmp_path / "away", "clips")]
    assert 1.0 in shown and min(shown) < 0.9

    config = PuppetsConfig(str(tmp_path / "real"), clips=2, frames=5, motions=config.output, real=1.0)
    assert run(config) == {"kept": 2, "failed": 0}
    assert all(" moves " in row["caption"] for row in rows_of(tmp_path / "real", "clips"))
    with pytest.raises(ValueError, match=r"no kept clip of 8\.2 s"):
        run(dataclasses.replace(config, frames=100))


def roundtrip(row: dict) -> dict:
    """The row as its table holds it: every column, of the column's type."""
    assert row["status"] == KEPT
    return table([row], CLIPS).to_pylist()[0]

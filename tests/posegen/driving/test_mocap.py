"""Motion capture: files that are made here, with known answers, become poses that go on for as long as is wanted."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from mini_model.real_motion import motion_clip
from posegen.driving.mocap import BvhError, Camera, joined, read_bvh, read_motion, resampled
from posegen.driving.mocap.body import body_of
from posegen.driving.mocap.names import LIMBS, name_joints
from posegen.driving.skeleton import FACE, LEFT_HAND, VISIBLE
from posegen.driving.skeleton import KEYPOINT_INDEX as INDEX
from testkit.bvh_files import PERSON, joint_order, moves, write_bvh

SIDES = ("left", "right")


def turn(axis: str, degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array(
        {
            "X": [[1, 0, 0], [0, cos, -sin], [0, sin, cos]],
            "Y": [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]],
            "Z": [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]],
        }[axis]
    )


@pytest.mark.parametrize("order", ["".join(order) for order in permutations("XYZ")])
def test_channels_turn_in_the_order_in_which_they_stand(order: str, tmp_path: Path) -> None:
    arm = {"Hips": ("", (1.0, 2.0, 3.0)), "Arm": ("Hips", (0.0, 4.0, 0.0))}
    path = write_bvh(tmp_path / "arm.bvh", [[10, 20, 30, 20, 30, 40, -50, 60, 70]], arm, order)
    motion = read_bvh(path)
    assert motion.names == ("Hips", "Arm", "Arm end") and motion.parents == (-1, 0, 1) and motion.rate == 30
    root, elbow = (
        turn(order[0], a) @ turn(order[1], b) @ turn(order[2], c) for a, b, c in ((20, 30, 40), (-50, 60, 70))
    )
    at, turned = motion.world()
    assert np.allclose(at[0, 0], [10, 20, 30])  # in place of the offset
    assert np.allclose(at[0, 1], [10, 20, 30] + root @ [0, 4, 0])
    assert np.allclose(at[0, 2], at[0, 1] + root @ elbow @ [0, 5, 0])
    assert np.allclose(turned[0, 1], root @ elbow)


def damaged(lines: list[str], number: int, line: str | None) -> list[str]:
    return lines[: number - 1] + ([line] if line is not None else []) + lines[number:]


@pytest.mark.parametrize(
    ("number", "line", "said"),
    [
        (1, "SKELETON", "line 1: a BVH file begins with HIERARCHY"),
        (3, "", "line 4: { should be here"),
        (4, "OFFSET 0 zero 0", "line 4: OFFSET should be 3 numbers, not '0 zero 0'"),
        (4, "OFFSET 0 nan 0", "line 4: OFFSET should be 3 numbers"),
        (5, "CHANNELS 3 Xposition Yposition Wposition", "line 5: CHANNELS should be a number"),
        (5, "CHANNELS 3 Xrotation Xrotation Yrotation", "line 5: CHANNELS should be a number"),
        (6, "ROOT Second", "line 6: ROOT does not belong here"),
        (6, "BONE Arm", "line 6: 'BONE' is not understood"),
        (17, "Frames: many", "line 17: Frames: should be a number, not 'many'"),
        (17, "Frames: 999999999999", "line 17: Frames: should be here, with a number of at most"),
        (18, "Frame Time: 0", "line 18: Frame Time: should be here, with 0.0001 to 10 seconds"),
        (19, "1 2 3", "line 19: a frame should be 9 numbers, not '1 2 3'"),
        (19, "1 2 3 4 5 6 7 8 x", "line 19: a frame should be 9 numbers"),
        (20, None, "the file ends where frame 2 of 2 should be"),
    ],
)
def test_damage_is_told_with_its_line(number: int, line: str | None, said: str, tmp_path: Path) -> None:
    arm = {"Hips": ("", (0.0, 0.0, 0.0)), "Arm": ("Hips", (0.0, 4.0, 0.0))}
    path = write_bvh(tmp_path / "arm.bvh", [[0] * 9, [0] * 9], arm)
    lines = damaged(path.read_text().splitlines(), number, line)
    path.write_text("\n".join(lines if line is not None else lines[: number - 1]))
    with pytest.raises(BvhError, match="export the motion as BVH again") as error:
        read_bvh(path)
    assert said in str(error.value) and str(error.value).count("\n") == 0


def test_what_is_no_text_or_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "noise.bvh").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(BvhError, match="begins with HIERARCHY"):
        read_bvh(tmp_path / "noise.bvh")
    with pytest.raises(BvhError, match="No such file"):
        read_bvh(tmp_path / "missing.bvh")


def still(tmp_path: Path, frames: int = 30, **turns: tuple[int, np.ndarray]) -> Path:
    return write_bvh(tmp_path / "person.bvh", moves(frames, turns))


def test_who_stands_there_is_seen_from_the_front(tmp_path: Path) -> None:
    camera = Camera(pitch=0, distance=None, size=(400, 600))
    pose = read_motion(still(tmp_path), 30, camera=camera).keypoints[10]
    height = 84 / 0.491  # told from the legs
    scale = 0.66 * 600 / height
    across = pose[INDEX["left_wrist"], 0] - pose[INDEX["right_wrist"], 0]
    assert across == pytest.approx(2 * (3 + 16 + 32 + 25) * scale, rel=1e-4)  # left is at the picture's right
    legs = pose[INDEX["left_ankle"], 1] - pose[INDEX["left_hip"], 1]
    assert legs == pytest.approx(84 * scale, rel=1e-4)
    middle = (pose[INDEX["left_hip"], 0] + pose[INDEX["right_hip"], 0]) / 2
    assert middle == pytest.approx(200, abs=0.01)
    nose, ears = pose[0], pose[[INDEX["left_ear"], INDEX["right_ear"]]]
    assert nose[0] == pytest.approx(200, abs=0.01) and ears[0, 0] > 200 > ears[1, 0]
    assert nose[1] < pose[INDEX["left_shoulder"], 1] and (pose[:23, 2] > VISIBLE).all()
    assert not pose[FACE, 2].any() and not pose[LEFT_HAND, 2].any()  # the skeleton has none


def test_from_behind_the_face_is_hidden_and_sides_change_places(tmp_path: Path) -> None:
    pose = read_motion(still(tmp_path), 30, camera=Camera(turn=np.pi)).keypoints[0]
    assert pose[INDEX["left_wrist"], 0] < pose[INDEX["right_wrist"], 0]
    assert (pose[:3, 2] < VISIBLE).all()


def test_a_head_that_turns_is_seen_to_turn(tmp_path: Path) -> None:
    """As often to one side as to the other, so on the whole it looks ahead."""
    yaw = 60 * np.sin(2 * np.pi * np.arange(60) / 60)
    keypoints = read_motion(
        still(tmp_path, 60, Head=(2, yaw)), 30, camera=Camera(pitch=0, distance=None)
    ).keypoints
    nose = keypoints[:, 0, 0] - keypoints[:, [INDEX["left_ear"], INDEX["right_ear"]], 0].mean(axis=1)
    scale = 0.66 * 768
    assert np.allclose(nose, 0.062 * np.sin(np.radians(yaw)) * scale, atol=0.05 * scale * 0.062)


def test_the_camera_goes_along_and_z_may_point_up(tmp_path: Path) -> None:
    way = np.stack([np.zeros(90), np.zeros(90), np.linspace(0, 500, 90)], axis=1)  # towards the camera
    upright = write_bvh(tmp_path / "y.bvh", moves(90, {}, way))
    rows = moves(90, {}, way)
    rows[:, :3] = np.stack([rows[:, 0], -rows[:, 2], rows[:, 1]], axis=1)
    rows[:, 4] = 90  # about x: y becomes z
    lying = write_bvh(tmp_path / "z.bvh", rows)
    one, other = (read_motion(path, 30).keypoints for path in (upright, lying))
    assert np.allclose(one, other, atol=0.01)
    sizes = np.ptp(one[:, :17, 1], axis=1)
    assert np.ptp(sizes[10:80]) < 0.1 * sizes.mean()


def test_perspective_makes_what_is_near_larger(tmp_path: Path) -> None:
    forward = still(tmp_path, 30, LeftArm=(2, np.full(30, -90.0)))  # about y: the arm points ahead
    flat, deep = (
        read_motion(forward, 30, camera=Camera(pitch=0, distance=distance)).keypoints[0]
        for distance in (None, 3.0)
    )
    wrist = INDEX["left_wrist"]
    assert abs(deep[wrist, 0] - 256) > abs(flat[wrist, 0] - 256)


NAMINGS = {
    "Mixamo": "mixamorig:{Left}Arm {Left}ForeArm {Left}Hand {Left}UpLeg {Left}Leg {Left}Foot mixamorig:Head",
    "CMU": "{Left}Shoulder {Left}Elbow {Left}Wrist {Left}Hip {Left}Knee {Left}Ankle Head",
    "Poser": "{l}Shoulder {l}Elbow {l}Wrist {l}Hip {l}Knee {l}Ankle head",
    "Biped": "Bip01_{L}_UpperArm Bip01_{L}_Forearm Bip01_{L}_Hand Bip01_{L}_Thigh Bip01_{L}_Calf Bip01_{L}_Foot Head",
    "Unreal": "upperarm_{l} lowerarm_{l} hand_{l} thigh_{l} calf_{l} foot_{l} head",
    "VRM": "J_Bip_{L}_UpperArm J_{L}_LowerArm J_{L}_Hand J_{L}_UpperLeg J_{L}_LowerLeg J_{L}_Foot J_Bip_C_Head",
    "Blender": "upper_arm.{L} forearm.{L} hand.{L} thigh.{L} shin.{L} foot.{L} head",
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_the_names_of_common_skeletons(naming: str) -> None:
    left, right = (
        NAMINGS[naming].format(Left=side, L=side[0], l=side[0].lower()).split() for side in ("Left", "Right")
    )
    found = name_joints(["root", *left[:6], *right])
    assert [found[f"left_{limb}"] for limb in LIMBS] == [*range(1, 7)]
    assert [found[f"right_{limb}"] for limb in LIMBS] == [*range(7, 13)]
    assert found["head"] == 13


def test_a_collar_bone_is_no_shoulder() -> None:
    names = joint_order()
    assert names[name_joints(names)["left_shoulder"]] == "LeftArm"
    cmu = ["LeftCollar", "LeftShoulder", "LeftElbow", "LeftWrist", "LeftHip", "LeftKnee", "LeftAnkle"]
    cmu += [name.replace("Left", "Right") for name in cmu]
    assert name_joints([*cmu, "Head"])["right_shoulder"] == cmu.index("RightShoulder")


def test_unknown_names_are_listed_and_can_be_given(tmp_path: Path) -> None:
    odd = {f"x{name}": (f"x{parent}" if parent else "", offset) for name, (parent, offset) in PERSON.items()}
    odd = {
        name.replace("Arm", "Wing"): (parent.replace("Arm", "Wing"), at) for name, (parent, at) in odd.items()
    }
    path = write_bvh(tmp_path / "odd.bvh", moves(5, {}), odd)
    with pytest.raises(BvhError, match="not known by name; map them, as in") as error:
        read_motion(path, 30)
    assert "left_shoulder" in str(error.value) and "xLeftWing" in str(error.value)
    limbs = dict(zip(("Wing", "ForeWing", "Hand", "UpLeg", "Leg", "Foot"), LIMBS, strict=True))
    given = {f"x{side.title()}{theirs}": f"{side}_{ours}" for side in SIDES for theirs, ours in limbs.items()}
    given |= {"xHead": "head"}
    plain = read_motion(write_bvh(tmp_path / "plain.bvh", moves(5, {})), 30)
    found = read_motion(path, 30, names=given).keypoints
    assert np.allclose(found[:, :17], plain.keypoints[:, :17], atol=0.01)
    with pytest.raises(BvhError, match="left_knie are no joints of a body"):
        read_motion(path, 30, names={"xLeftLeg": "left_knie"})
    with pytest.raises(BvhError, match="There is no joint Nose"):
        read_motion(path, 30, names={"Nose": "head"})


def test_fingers_are_hands(tmp_path: Path) -> None:
    fingers = {}
    for place, finger in enumerate(("Thumb", "Index", "Middle", "Ring", "Pinky")):
        parent = "LeftHand"
        for number in (1, 2, 3):
            fingers[f"LeftHand{finger}{number}"] = (parent, (3.0, 0.0, float(place)))
            parent = f"LeftHand{finger}{number}"
    skeleton = PERSON | fingers
    rows = np.zeros((5, 3 + 3 * len(skeleton)))
    body = body_of(read_bvh(write_bvh(tmp_path / "hand.bvh", rows, skeleton)))
    assert body.seen[LEFT_HAND].all() and not body.seen[112:].any()
    assert np.allclose(body.points[0, INDEX["left_hand_root"]], body.points[0, INDEX["left_wrist"]])
    tips = body.points[0, [INDEX[f"left_{finger}4"] for finger in ("thumb", "pinky_finger")]]
    joints = body.points[0, [INDEX[f"left_{finger}3"] for finger in ("thumb", "pinky_finger")]]
    assert np.allclose(np.linalg.norm(tips - joints, axis=1) * 84 / 0.491, 5)


def swinging(
    tmp_path: Path, frames: int, period: float, name: str = "swing.bvh", turned: float = 0.0
) -> Path:
    """A person who walks on and swings both arms; turned: degrees that they face another way."""
    phase = 2 * np.pi * np.arange(frames) / period
    ahead = turn("Y", turned) @ [0, 0, 1]
    way = np.arange(frames)[:, None] * 4.0 * ahead
    arms = {f"{side.title()}Arm": (0, 50 * np.sin(phase)) for side in SIDES}
    legs = {"LeftUpLeg": (1, 30 * np.sin(phase)), "RightUpLeg": (1, -30 * np.sin(phase))}
    facing = {"Hips": (2, np.full(frames, turned))}
    return write_bvh(tmp_path / name, moves(frames, {**arms, **legs, **facing}, way))


def jumps(motion: object) -> np.ndarray:
    """How far (T - 1,) the joint that moves most does from frame to frame."""
    at, _ = motion.world()  # type: ignore[attr-defined]
    return np.linalg.norm(np.diff(at, axis=0), axis=-1).max(axis=1)


@pytest.mark.parametrize("seconds", [1.0, 4.0, 60.0])
def test_a_motion_goes_on_without_a_jump(seconds: float, tmp_path: Path) -> None:
    motion = read_bvh(swinging(tmp_path, 97, 31.0))
    long = joined([motion], seconds)
    assert len(long) == round(seconds * 30)
    assert np.allclose(long.rotations[:30], motion.rotations[:30])
    assert jumps(long).max() < 1.15 * jumps(motion).max()
    length = np.linalg.norm(long.places[-1, 0] - long.places[0, 0])
    assert length == pytest.approx(4.0 * (len(long) - 1), rel=0.05)  # they walk on, and not back
    assert np.allclose(long.rotations @ long.rotations.swapaxes(-1, -2), np.eye(3), atol=1e-6)


def test_who_turns_in_a_clip_does_not_turn_on_for_ever(tmp_path: Path) -> None:
    """60 degrees in 3 s, so in a minute they would turn around three times."""
    facing = {"Hips": (2, np.linspace(0, 60, 90))}
    sway = {"LeftArm": (0, 40 * np.sin(2 * np.pi * np.arange(90) / 30))}
    motion = read_bvh(write_bvh(tmp_path / "turn.bvh", moves(90, facing | sway)))
    long = joined([motion], 60.0)
    ahead = long.rotations[:, 0, :, 2]
    facing_now = np.degrees(np.arctan2(ahead[:, 0], ahead[:, 2]))
    assert np.abs(facing_now - 30).max() < 65
    assert jumps(long).max() < 2.5 * jumps(motion).max()  # they turn back as fast


def test_clips_of_one_skeleton_follow_each_other_the_same_way_on(tmp_path: Path) -> None:
    """The second faces another way and is taken up where the first one is."""
    first, second = (
        read_bvh(swinging(tmp_path, 90, 30.0, f"{turned}.bvh", turned)) for turned in (0.0, 110.0)
    )
    long = joined([first, second], 5.0)
    assert len(long) == 150 and jumps(long).max() < 1.15 * jumps(first).max()
    way = long.places[-1, 0] - long.places[0, 0]
    assert way[2] == pytest.approx(4.0 * 149, rel=0.05) and abs(way[0]) < 20


def test_what_cannot_be_joined_is_told(tmp_path: Path) -> None:
    person = read_bvh(swinging(tmp_path, 40, 30.0))
    arm = read_bvh(write_bvh(tmp_path / "arm.bvh", [[0] * 6] * 90, {"Hips": ("", (0.0, 0.0, 0.0))}))
    with pytest.raises(ValueError, match="different skeletons"):
        joined([arm, person], 5)
    with pytest.raises(ValueError, match="too short to go on from"):
        joined([person[:40]], 5)
    for seconds in (0, -1, 1e9, float("nan")):
        with pytest.raises(ValueError, match="is not made"):
            joined([person], seconds)


def test_another_rate_keeps_the_pace(tmp_path: Path) -> None:
    motion = read_bvh(swinging(tmp_path, 91, 30.0))
    slow = resampled(motion, 12.0)
    assert (len(slow), slow.rate) == (37, 12.0)
    assert np.allclose(slow.rotations[::2], motion.rotations[::5][: len(slow.rotations[::2])], atol=1e-6)


def test_a_puppet_moves_as_the_file_says(tmp_path: Path) -> None:
    clip = motion_clip(swinging(tmp_path, 90, 30.0), seconds=5.0, seed=3)
    assert len(clip.frames) == len(clip.silhouettes) == len(clip.keypoints) == 60
    wrist = clip.keypoints[:, INDEX["left_wrist"], 1]
    beat = np.abs(np.fft.rfft(wrist - wrist.mean()))
    assert (
        4 <= beat.argmax() <= 10 and np.ptp(wrist) > 3
    )  # one swing a second, seen from the front twice or once
    assert clip.silhouettes.any(axis=(1, 2)).all()

"""BVH files of made skeletons, written from what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# A person 170 tall who stands on y = 0 and faces z, in Mixamo's names: parent and offset of each joint.
PERSON: dict[str, tuple[str, tuple[float, float, float]]] = {
    "Hips": ("", (0, 0, 0)),
    "Spine": ("Hips", (0, 20, 0)),
    "Neck": ("Spine", (0, 30, 0)),
    "Head": ("Neck", (0, 8, 0)),
    **{
        f"{side}{name}": (f"{side}{parent}" if parent[0] != "*" else parent[1:], (sign * x, y, z))
        for side, sign in (("Left", 1), ("Right", -1))
        for name, parent, (x, y, z) in (
            ("Shoulder", "*Spine", (3, 28, 0)),
            ("Arm", "Shoulder", (16, 0, 0)),
            ("ForeArm", "Arm", (32, 0, 0)),
            ("Hand", "ForeArm", (25, 0, 0)),
            ("UpLeg", "*Hips", (10, 0, 0)),
            ("Leg", "UpLeg", (0, -42, 0)),
            ("Foot", "Leg", (0, -42, 0)),
            ("ToeBase", "Foot", (0, -6, 14)),
        )
    },
}
HIPS = 90.0  # their height


def write_bvh(
    path: Path,
    rows: np.ndarray | Sequence[Sequence[float]],
    skeleton: Mapping[str, tuple[str, tuple[float, float, float]]] = PERSON,
    order: str = "ZXY",
    step: float = 1 / 30,
) -> Path:
    """Writes frames, each the root's place, then the turns of all joints in degrees, in the order of `joint_order`."""
    rotations = " ".join(f"{axis}rotation" for axis in order)
    lines = ["HIERARCHY"]

    def write(name: str, depth: int) -> None:
        parent, offset = skeleton[name]
        pad = "\t" * depth
        lines.append(f"{pad}{'JOINT' if parent else 'ROOT'} {name}")
        lines.append(pad + "{")
        lines.append(f"{pad}\tOFFSET {' '.join(map(str, offset))}")
        places = "" if parent else "Xposition Yposition Zposition "
        lines.append(f"{pad}\tCHANNELS {3 if parent else 6} {places}{rotations}")
        children = [child for child, (of, _) in skeleton.items() if of == name]
        for child in children:
            write(child, depth + 1)
        if not children:
            lines.extend([f"{pad}\tEnd Site", pad + "\t{", f"{pad}\t\tOFFSET 0 5 0", pad + "\t}"])
        lines.append(pad + "}")

    write(next(iter(skeleton)), 0)
    lines += ["MOTION", f"Frames: {len(rows)}", f"Frame Time: {step:.6f}"]
    lines += [" ".join(f"{value:.6f}" for value in row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def joint_order(skeleton: Mapping[str, tuple[str, tuple[float, float, float]]] = PERSON) -> list[str]:
    """The joints in the order of their channels."""
    ordered: list[str] = []

    def visit(name: str) -> None:
        ordered.append(name)
        for child, (parent, _) in skeleton.items():
            if parent == name:
                visit(child)

    visit(next(iter(skeleton)))
    return ordered


def moves(
    frames: int, turns: Mapping[str, tuple[int, np.ndarray]], way: np.ndarray | None = None
) -> np.ndarray:
    """The rows (T, 3 + 3 joints) of the person: turns are, by joint, the channel 0..2 and its degrees (T,); way: (T, 3)
    of the root from where it stands."""
    joints = joint_order()
    rows = np.zeros((frames, 3 + 3 * len(joints)))
    rows[:, 1] = HIPS
    if way is not None:
        rows[:, :3] += way
    for name, (channel, degrees) in turns.items():
        rows[:, 3 + 3 * joints.index(name) + channel] = degrees
    return rows

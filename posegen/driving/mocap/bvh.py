"""BVH files (Biovision hierarchical data) of any skeleton.

Choices made: a joint's channels may come in any order, as they do in files of different makers, and rotate about axes
that turn with the joint, the first listed outermost. A position channel takes the place of the offset's component.
Frames beyond the stated number are left out. A file may have 512 joints and 20 million numbers. What is wrong is told
with the number of its line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from posegen.driving.mocap.motion import Motion

MOST_BYTES = 512 * 2**20
MOST_JOINTS = 512
MOST_NUMBERS = 20_000_000
AXES = {"X": 0, "Y": 1, "Z": 2}
CHANNELS = {f"{axis}{kind}".lower(): (kind, AXES[axis]) for axis in AXES for kind in ("position", "rotation")}


class BvhError(ValueError):
    """A file is no BVH file, or a damaged one: what and in which line, in a sentence."""


@dataclass
class _Joint:
    name: str
    parent: int
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)
    channels: list[tuple[str, int]] = field(default_factory=list)


class _Lines:
    """The lines of a file as words; errors name the file and the line."""

    def __init__(self, path: Path) -> None:
        self._path, self.number = path, 0
        try:
            size = path.stat().st_size
            if size > MOST_BYTES:
                raise BvhError(f"{path}: it has {size} bytes; give a BVH file of at most {MOST_BYTES}.")
            self._lines = path.read_text("utf-8", errors="replace").splitlines()
        except OSError as error:
            raise BvhError(f"{path} cannot be read ({error.strerror}); check the path.") from error

    def next(self, wanted: str) -> list[str]:
        """The words of the next line that has any."""
        while self.number < len(self._lines):
            self.number += 1
            if words := self._lines[self.number - 1].split():
                return words
        raise self.error(f"the file ends where {wanted} should be")

    def error(self, what: str) -> BvhError:
        return BvhError(f"{self._path}, line {self.number}: {what}; export the motion as BVH again.")

    def numbers(self, words: list[str], count: int, what: str) -> tuple[float, ...]:
        try:
            values = tuple(map(float, words))
        except ValueError:
            values = ()
        if len(values) != count or not np.isfinite(values).all():
            wanted = "a number" if count == 1 else f"{count} numbers"
            raise self.error(f"{what} should be {wanted}, not {' '.join(words)[:40]!r}")
        return values


def read_bvh(path: str | Path) -> Motion:
    """The motion in a file; raises BvhError. Its unit and its axes are the file's own: BVH states neither."""
    lines = _Lines(Path(path))
    if lines.next("HIERARCHY")[0].upper() != "HIERARCHY":
        raise lines.error("a BVH file begins with HIERARCHY")
    joints = _hierarchy(lines)
    rows, rate = _frames(lines, sum(len(joint.channels) for joint in joints))
    rotations = np.broadcast_to(np.eye(3), (len(rows), len(joints), 3, 3)).copy()
    places = np.broadcast_to([joint.offset for joint in joints], (len(rows), len(joints), 3)).copy()
    column = 0
    for index, joint in enumerate(joints):
        for kind, axis in joint.channels:
            if kind == "position":
                places[:, index, axis] = rows[:, column]
            else:
                rotations[:, index] = rotations[:, index] @ _turns(rows[:, column], axis)
            column += 1
    return Motion(
        tuple(joint.name for joint in joints),
        tuple(joint.parent for joint in joints),
        rotations,
        places,
        rate,
    )


def _hierarchy(lines: _Lines) -> list[_Joint]:
    """The joints up to and with the line MOTION."""
    joints: list[_Joint] = []
    open_joints: list[int] = []
    while True:
        words = lines.next("MOTION")
        word = words[0].upper()
        if word == "MOTION" and joints and not open_joints:
            return joints
        if word in ("ROOT", "JOINT", "END"):
            parent = open_joints[-1] if open_joints else -1
            if (
                (word == "ROOT") == bool(joints)
                or len(joints) == MOST_JOINTS
                or (not joints and word != "ROOT")
            ):
                raise lines.error(
                    f"{word} does not belong here: one ROOT holds all, of at most {MOST_JOINTS} joints"
                )
            name = f"{joints[parent].name} end" if word == "END" else " ".join(words[1:]).rstrip(" {")
            joints.append(_Joint(name, parent))
            if words[-1] != "{" and lines.next("{")[0] != "{":
                raise lines.error("{ should be here")
            open_joints.append(len(joints) - 1)
        elif word == "}" and open_joints:
            open_joints.pop()
        elif word == "OFFSET" and open_joints:
            joints[open_joints[-1]].offset = lines.numbers(words[1:], 3, "OFFSET")
        elif word == "CHANNELS" and open_joints:
            joints[open_joints[-1]].channels = _channels(lines, words[1:])
        else:
            raise lines.error(f"{words[0][:40]!r} is not understood")


def _channels(lines: _Lines, words: list[str]) -> list[tuple[str, int]]:
    names = [word.lower() for word in words[1:]]
    if (
        not words
        or words[0] != str(len(names))
        or len(set(names)) != len(names)
        or set(names) - set(CHANNELS)
    ):
        raise lines.error("CHANNELS should be a number and as many of Xposition to Zrotation")
    return [CHANNELS[name] for name in names]


def _frames(lines: _Lines, channels: int) -> tuple[np.ndarray, float]:
    """The numbers (T, channels) of all frames, and frames/s."""
    words = lines.next("Frames:")
    (count,) = lines.numbers(words[1:], 1, "Frames:") if words[0].lower() == "frames:" else (0.0,)
    if not 1 <= count <= MOST_NUMBERS / max(channels, 1) or count != int(count):
        raise lines.error(
            f"Frames: should be here, with a number of at most {MOST_NUMBERS // max(channels, 1)}"
        )
    words = lines.next("Frame Time:")
    stated = [word.lower() for word in words[:2]] == ["frame", "time:"]
    (step,) = lines.numbers(words[2:], 1, "Frame Time:") if stated else (0.0,)
    if not 1e-4 <= step <= 10:
        raise lines.error("Frame Time: should be here, with 0.0001 to 10 seconds")
    rows = [
        lines.numbers(lines.next(f"frame {frame + 1} of {int(count)}"), channels, "a frame")
        for frame in range(int(count))
    ]
    # Makers round to a few digits: 0.0333333 are 30 frames/s.
    rate = 1 / step
    return np.array(rows), float(round(rate)) if abs(rate - round(rate)) < 2e-3 * rate else rate


def _turns(degrees: np.ndarray, axis: int) -> np.ndarray:
    """The rotations (T, 3, 3) by so many degrees about x, y or z."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turns = np.zeros((len(degrees), 3, 3))
    one, other = (axis + 1) % 3, (axis + 2) % 3
    turns[:, axis, axis] = 1
    turns[:, one, one] = turns[:, other, other] = cos
    turns[:, other, one], turns[:, one, other] = sin, -sin
    return turns

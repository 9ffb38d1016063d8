"""Who is in a clip, and how well they are seen: scores from keypoints alone, and the keypoints of the one person.

A person counts if they are at least two fifths as tall as the tallest in the frame, so passers-by far
behind do not. Two detections are the same person if the estimator says so, or if their boxes overlap and less than a
second lies between them. All shares are of frames. Lengths are in person heights, so that a distant person is measured
like a close one.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from posegen.driving.humans import HEAD, SHOULDERS
from posegen.driving.poses import Person
from posegen.driving.poses.regions import overlap
from posegen.driving.skeleton import (
    BODY,
    FACE,
    KEYPOINT_INDEX,
    LEFT_HAND,
    RIGHT_HAND,
    VISIBLE,
    standing_height,
)

COUNTS_FROM = 0.4
"""Least height, as a share of the tallest person's, of someone who counts."""
LONGEST_GAP_S = 1.0
SAME_BOX = 0.3
"""Least IoU of the boxes of one person before and after a gap."""
SIDEWAYS = 55.0
"""Degrees from upright above which a clip is turned; so is the threshold `tilt`."""
SEEN_FACE = 0.5
"""Least mean confidence of the face points for the face to be measured."""

WRISTS = [KEYPOINT_INDEX["left_wrist"], KEYPOINT_INDEX["right_wrist"]]
HIPS = [KEYPOINT_INDEX["left_hip"], KEYPOINT_INDEX["right_hip"]]
EYES, MOUTH = slice(36, 48), slice(48, 68)
"""Of the 68 points of a face."""

# Face proportions of real adults, of which drawn faces fall short: outer eye corners over the jaw's breadth, and the
# jaw's breadth over the height from the root of the nose to the chin. Mean and standard deviation over the frontal
# faces that the estimator finds in films of 14 people.
EYES_OVER_BREADTH = (0.660, 0.016)
BREADTH_OVER_HEIGHT = (1.13, 0.045)
FRONTAL = 0.4
"""Largest share of the jaw's breadth by which the nose may be nearer to one end than to the other."""
LEAST_BREADTH = 24
"""Pixels of jaw below which proportions are noise."""


class PersonTrack:
    """The people of a clip, chunk after chunk, and what `result` makes of them.

    size: (width, height) of the frames that were looked at.
    """

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self._numbers: list[int] = []  # who the chosen person of each frame is; -1 where there is nobody
        self._counts: list[int] = []
        self._poses: list[np.ndarray] = []
        self._boxes: list[np.ndarray] = []
        self._times: list[float] = []
        self._last: tuple[Person, float, int] | None = None

    def update(self, people: list[list[Person]], times: np.ndarray) -> list[list[Person]]:
        """Takes in the next frames' people and times (seconds); returns those who count, the clip's person first."""
        return [self._frame(present, float(time)) for present, time in zip(people, times, strict=True)]

    def _frame(self, people: list[Person], time: float) -> list[Person]:
        heights = [person.box[3] - person.box[1] for person in people]
        people = [
            p for p, height in zip(people, heights, strict=True) if height >= COUNTS_FROM * max(heights)
        ]
        self._counts.append(len(people))
        self._times.append(time)
        chosen, number = self._choose(people, time)
        self._numbers.append(number)
        self._poses.append(chosen.keypoints if chosen else np.full((133, 3), np.nan, np.float32))
        self._boxes.append(chosen.box if chosen else np.full(4, np.nan, np.float32))
        return sorted(people, key=lambda person: person is not chosen)

    def _choose(self, people: list[Person], time: float) -> tuple[Person | None, int]:
        if not people:
            return None, -1
        chosen, number = people[0], self._last[2] + 1 if self._last else 0
        if self._last and time - self._last[1] <= LONGEST_GAP_S:
            before = self._last[0]
            near = overlap(before.box, np.array([person.box for person in people]))
            best = int(near.argmax())
            tracked = [p for p in people if p.track_id >= 0 and p.track_id == before.track_id]
            if tracked or near[best] >= SAME_BOX:
                chosen, number = tracked[0] if tracked else people[best], self._last[2]
        self._last = (chosen, time, number)
        return chosen, number

    def result(self) -> tuple[dict[str, float], np.ndarray]:
        """The scores, without those (or NaN) that nobody was there to measure, and the person's keypoints.

        Keypoints are (N, 133, 3) float32 in pixels of the frames, NaN in frames without the person.
        """
        numbers = np.array(self._numbers)
        keypoints = np.array(self._poses, np.float32).reshape(-1, 133, 3)
        person = Counter(number for number in self._numbers if number >= 0).most_common(1)
        there = numbers == (person[0][0] if person else -2)
        keypoints[~there] = np.nan
        scores = {"one_person": float(np.mean(there & (np.array(self._counts) == 1)))} if len(numbers) else {}
        seen, boxes = keypoints[there], np.array(self._boxes).reshape(-1, 4)[there]
        return scores | self._visibility(seen, boxes) | self._faces(seen) | self._shake(keypoints), keypoints

    def _visibility(self, keypoints: np.ndarray, boxes: np.ndarray) -> dict[str, float]:
        if not len(keypoints):
            return {}
        width, height = self.size
        body = keypoints[:, BODY]
        outside = ((body[..., :2] < 0) | (body[..., :2] >= (width, height))).any(-1)
        shown = (body[..., 2] >= VISIBLE) & ~outside
        wrists = keypoints[:, WRISTS, 2] >= VISIBLE
        hands = np.stack([keypoints[:, part, 2].mean(1) for part in (LEFT_HAND, RIGHT_HAND)], 1)
        return {
            "head_visible": float(np.mean(shown[:, HEAD].any(1))),
            "person_height": float(np.median(boxes[:, 3] - boxes[:, 1]) / height),
            "visible_joints": float(np.mean(shown)),
            "truncation": float(np.mean(outside)),
            "tilt": tilt(keypoints),
            "hand_confidence": float(hands[wrists].mean()) if wrists.any() else np.nan,
        }

    def _faces(self, keypoints: np.ndarray) -> dict[str, float]:
        faces = keypoints[keypoints[:, FACE, 2].mean(1) >= SEEN_FACE][:, FACE, :2]
        if not len(faces):
            return {}
        return {
            "face_size": float(np.median(np.ptp(faces[..., 1], axis=1)) / self.size[1]),
            "face_oddity": face_oddity(faces),
        }

    def _shake(self, keypoints: np.ndarray) -> dict[str, float]:
        """What is left of a joint's step when the steps before and after are taken away, over the person's height."""
        body = np.where(keypoints[:, BODY, 2:] >= VISIBLE, keypoints[:, BODY, :2], np.nan)
        heights = [standing_height(pose) for pose in keypoints[::10] if not np.isnan(pose[0, 0])]
        if len(body) < 3 or not any(heights):
            return {}
        shake = np.linalg.norm(body[2:] - 2 * body[1:-1] + body[:-2], axis=-1) / 2
        height = float(np.median([height for height in heights if height]))
        return {"pose_jitter": float(np.nanmedian(shake) / height) if np.isfinite(shake).any() else np.nan}


def tilt(keypoints: np.ndarray) -> float:
    """How far people (N, 133, 3) are turned from upright, median in degrees 0..180; NaN where nothing tells."""
    angles = _angles(keypoints)
    return float(np.median(np.abs(angles))) if len(angles) else float("nan")


def upright_turn(keypoints: np.ndarray) -> int:
    """By how many degrees clockwise, 0, 90, 180 or 270, pictures are to be turned for people (N, 133, 3) to be upright.

    0 where nothing tells, and where they are less than `SIDEWAYS` from upright.
    """
    angles = _angles(keypoints)
    if not len(angles) or np.median(np.abs(angles)) <= SIDEWAYS:
        return 0
    quarters = np.round(-angles / 90).astype(int) % 4
    return 90 * int(np.bincount(quarters[quarters > 0]).argmax())


def _angles(keypoints: np.ndarray) -> np.ndarray:
    """By how many degrees, -180..180, people (N, 133, 3) are turned clockwise, of those of whom something tells.

    From hips to shoulders, and of a close-up without hips from mouth to eyes.
    """
    faces = keypoints[:, FACE]
    low, high = keypoints[:, HIPS].mean(1), keypoints[:, SHOULDERS].mean(1)
    close = (low[:, 2] < VISIBLE) & (faces[..., 2].mean(1) >= SEEN_FACE)
    low[close], high[close] = faces[close][:, MOUTH].mean(1), faces[close][:, EYES].mean(1)
    told = (low[:, 2] >= VISIBLE) & (high[:, 2] >= VISIBLE)
    across, down = (high - low)[told, :2].T
    return np.degrees(np.arctan2(across, -down))


def face_oddity(faces: np.ndarray) -> float:
    """How far faces (N, 68, 2) are from real proportions, in standard deviations; NaN without a frontal face.

    Only deviations towards drawn faces count: eyes wider apart, and a face broader for its height. Small children come
    near drawn faces in both.
    """

    def length(a: int, b: int) -> np.ndarray:
        return np.linalg.norm(faces[:, a] - faces[:, b], axis=-1)

    breadth = np.maximum(length(0, 16), 1e-6)
    turned = np.abs(length(30, 0) - length(30, 16)) / breadth
    frontal = (turned < FRONTAL) & (breadth >= LEAST_BREADTH)
    if not frontal.any():
        return float("nan")
    eyes = (length(36, 45) / breadth - EYES_OVER_BREADTH[0]) / EYES_OVER_BREADTH[1]
    height = np.maximum(length(27, 8), 1e-6)
    shape = (breadth / height - BREADTH_OVER_HEIGHT[0]) / BREADTH_OVER_HEIGHT[1]
    return float(np.median((eyes + shape)[frontal]) / 2)

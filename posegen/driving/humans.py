"""Is it a human being? A second opinion on whom a pose estimator sees, by networks other than the one that draws poses.

The body model draws a skeleton on a table's foot as readily as on a person, and follows it for as long as it stands
there. Curation asks these networks about its clips, and a driving video is asked where there is a choice of whom to
follow.
"""

from __future__ import annotations

import numpy as np

from posegen.driving.poses import Person
from posegen.driving.poses.landmarks import BodyNetwork
from posegen.driving.poses.regions import Region
from posegen.driving.poses.segmentation import PersonSegmenter
from posegen.driving.skeleton import BODY, FACE, KEYPOINT_INDEX

SURE = 0.5
"""Least presence or score for a network's answer to count."""
HEAD = [KEYPOINT_INDEX[name] for name in ("nose", "left_eye", "right_eye", "left_ear", "right_ear")]
SHOULDERS = [KEYPOINT_INDEX["left_shoulder"], KEYPOINT_INDEX["right_shoulder"]]


class HumanEvidence:
    """The networks, loaded once: MediaPipe's body detector and its person segmentation."""

    def __init__(self) -> None:
        self.bodies, self.segments = BodyNetwork(), PersonSegmenter()

    def __call__(
        self, frame: np.ndarray, person: Person, face: bool = False, regions: list[Region] | None = None
    ) -> float:
        """How much of a person in a frame (H, W, 3) uint8 RGB the other networks confirm, 0..1.

        Nothing, unless a face is seen on them (`face`: by another network already), or the body detector finds them
        from the single frame, without having tracked them there; then as much of their joints as the person
        segmentation covers. regions: what `bodies.find` gave for this frame, where that was asked before.
        """
        face = face or person.keypoints[FACE, 2].mean() >= SURE
        if not face:
            regions = self.bodies.find(frame) if regions is None else regions
            if not any(is_of(region, person) for region in regions):
                return 0.0
        joints = person.keypoints[BODY]
        joints = joints[joints[:, 2] >= SURE, :2]
        return float(self.segments.at(frame, person.box, joints).mean()) if len(joints) else 0.0


def head_region(person: Person) -> Region:
    """A square about as large as the head, on its middle."""
    points = person.keypoints[HEAD, :2]
    centre = points.mean(0)
    return Region(float(centre[0]), float(centre[1]), head_size(points[3:5], person.keypoints[SHOULDERS, :2]))


def head_size(ears: np.ndarray, shoulders: np.ndarray) -> float:
    """About how large a head is in pixels, from the ears and shoulders (2, 2)."""
    # The head is about as high as the shoulders are wide apart, halved; seen from the side the ears say nothing.
    apart, broad = (np.linalg.norm(left - right) for left, right in (ears, shoulders))
    return float(max(1.6 * apart, 0.5 * broad))


def is_of(region: Region, person: Person) -> bool:
    """Whether a region that a body was found for is that person's: it holds the head and is about as large.

    Regions go round the whole body, boxes end at the frame: that of a close-up is several times its box.
    """
    head, side = head_region(person), max(person.box[2:] - person.box[:2])
    near = max(abs(head.x - region.x), abs(head.y - region.y)) <= 0.6 * region.size
    return bool(near and 0.5 * side <= region.size <= 5 * side)

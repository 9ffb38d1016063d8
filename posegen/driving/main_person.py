"""Whom a driving video is about: the person who is largest for longest, wherever in the video they come in.

Who is seen first need not be they: a table's foot in an empty room may be taken for somebody before the person comes.
So people are linked to tracks over the whole video, and the track that covers most of the picture, added up over its
frames, is followed. Where it does not reach, as after a cut, the next ones are, if they are large and last. What stands
in the room for longer than the person is in it weighs more, so other networks are asked which tracks are of people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from posegen.driving.poses import Person
from posegen.driving.poses.regions import overlap
from posegen.driving.skeleton import BODY

SAME_BOX = 0.3
"""Least overlap (IoU) of the boxes of one person in two frames."""
HUMAN = 0.5
"""Least evidence that a track is of a human being, as curation's threshold."""
COUNTS_FROM = 0.4
"""Least height of another track's person, as a share of the main one's, or of the tallest there can be."""


@dataclass
class Track:
    """One person in the frames in which they are seen; weight: area of the box times confidence, added up."""

    frames: list[int] = field(default_factory=list)
    people: list[Person] = field(default_factory=list)
    weight: float = 0.0

    def add(self, frame: int, person: Person) -> None:
        """The person in the next frame."""
        self.frames.append(frame)
        self.people.append(person)
        area = float(np.prod(person.box[2:] - person.box[:2]))
        self.weight += area * float(person.keypoints[BODY, 2].mean())

    @property
    def height(self) -> float:
        """Median height of the person's box in pixels."""
        return float(np.median([person.box[3] - person.box[1] for person in self.people]))

    def goes_on_as(self, person: Person) -> float:
        """How surely the track's last person is this one, 0 (another) .. 2 (the estimator says so)."""
        last = self.people[-1]
        if person.track_id >= 0 and person.track_id == last.track_id:
            return 2.0
        near = float(overlap(last.box, person.box[None])[0])
        return near if near >= SAME_BOX else 0.0


def follow(people: Sequence[list[Person]], patience: int, height: float) -> np.ndarray:
    """Keypoints (T, 133, 3) float32 of the main person through the people of T frames, NaN where they are not seen.

    patience, height: as in `main_tracks`.
    """
    return poses(main_tracks(people, patience, height), len(people))


def poses(followed: Sequence[Track], frames: int) -> np.ndarray:
    """Keypoints (T, 133, 3) float32 of these tracks through T frames, NaN where none of them is seen."""
    keypoints = np.full((frames, 133, 3), np.nan, np.float32)
    for track in followed:
        keypoints[track.frames] = [person.keypoints for person in track.people]
    return keypoints


def main_tracks(
    people: Sequence[list[Person]],
    patience: int,
    height: float,
    evidence: Callable[[Track], float] | None = None,
) -> list[Track]:
    """The tracks that are followed through the people of consecutive frames, one after the other in time.

    patience: frames for which somebody out of sight is still the same. height: rows of pixels of the frames. evidence:
    how sure it is that a track is of a human being, 0..1; where there is a choice, those that are not are left out.
    """
    found = sorted(tracks(people, patience), key=lambda track: -track.weight)
    if evidence is not None:
        found = _human(found, patience, evidence)
    taken = np.zeros(len(people), bool)
    followed = []
    for track in found:
        first, last = track.frames[0], track.frames[-1] + 1
        tall = track.height >= COUNTS_FROM * min(found[0].height, height)
        lasting = len(track.frames) > patience / 2
        if taken[first:last].any() or (track is not found[0] and not (tall and lasting)):
            continue
        taken[first:last] = True
        followed.append(track)
    return sorted(followed, key=lambda track: track.frames[0])


def _human(found: list[Track], patience: int, evidence: Callable[[Track], float]) -> list[Track]:
    """The tracks that are of human beings, if any that lasts is; else all. Of a single one nobody is asked."""
    lasting = [track for track in found if len(track.frames) > patience / 2]
    if len(lasting) < 2:
        return found
    human = [track for track in lasting if evidence(track) >= HUMAN]
    return human or found


def tracks(people: Sequence[list[Person]], patience: int) -> list[Track]:
    """The people of consecutive frames, linked to one track for each; `patience` as in `main_tracks`."""
    ended: list[Track] = []
    running: list[Track] = []
    for frame, present in enumerate(people):
        ended += [track for track in running if frame - track.frames[-1] > patience]
        running = [track for track in running if frame - track.frames[-1] <= patience]
        pairs = [
            (sure, place, track)
            for place, person in enumerate(present)
            for track in running
            if (sure := track.goes_on_as(person)) > 0
        ]
        placed: set[int] = set()
        for _, place, track in sorted(pairs, key=lambda pair: -pair[0]):
            if place not in placed and track.frames[-1] < frame:
                track.add(frame, present[place])
                placed.add(place)
        for place, person in enumerate(present):
            if place not in placed:
                running.append(Track())
                running[-1].add(frame, person)
    return ended + running

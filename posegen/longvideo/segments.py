"""The plan of a long video: its segments, what each waits for, which driving frames it follows, and how they join.

Even segments are *base* segments, generated alone; odd ones are *bridges*, given the last `head` frames of the base
before and the first `tail` frames of the base after. All segments of a video have one length. Uneven bridges could come
within three frames of the video's length, but would save only 2.2 % of the generated frames on average between 82 and
1,000 frames, and 6 % at best (test_segments.py counts them), and would cost the method its one initial noise for every
segment and the GPU its one tensor shape. Everything here is numpy and pure; the only state is a `Stitcher`'s, which
holds what arrived early and one overlap, however long the video.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

FEWEST_NEW_FRAMES = 4  # a bridge adds at least one latent frame, which is four video frames


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of the timeline that is generated at once.

    The timeline is the driving video followed by its reflection, so a segment may reach past the video's end.
    `head` and `tail` are how many of its first and last frames are given to it; both 0 for a base segment.
    """

    index: int
    start: int
    frames: int
    kind: Literal["base", "bridge"]
    head: int
    tail: int


@dataclass(frozen=True)
class Plan:
    """How a video of `frames` driving frames is made from segments of `segment_frames` frames.

    `anchor` is the index of the base segment whose background the others share. Raises `ValueError` for numbers that
    the VAE's four frames to a latent, or the two given ends of a bridge, do not allow.
    """

    frames: int
    segment_frames: int
    head: int
    tail: int
    anchor: int

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(
                f"a video of {self.frames} frames cannot be planned; give at least one driving frame"
            )
        if self.segment_frames < 1 or self.segment_frames % 4 != 1:
            raise ValueError(
                f"a segment cannot have {self.segment_frames} frames; choose 4 k + 1, for example 81"
            )
        if self.head < 1 or self.head % 4 != 1 or self.tail < 4 or self.tail % 4:
            raise ValueError(
                f"a bridge cannot be given {self.head} + {self.tail} frames; choose 4 a + 1 first and 4 b last ones"
            )
        if self.frames > self.segment_frames < _shortest(self.head, self.tail):
            raise ValueError(
                f"segments of {self.segment_frames} frames leave a bridge no room between {self.head} + {self.tail} "
                f"given frames; choose at least {_shortest(self.head, self.tail)}"
            )
        if self.anchor not in range(0, 2 * self.bridges + 1, 2):
            raise ValueError(
                f"segment {self.anchor} cannot be the anchor; choose an even one from 0 to {2 * self.bridges}"
            )

    @property
    def bridges(self) -> int:
        """How many bridges there are; a plan has one base segment more."""
        return _bridges(self.frames, self.segment_frames, self.head, self.tail)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """All segments in the order of the timeline."""
        return tuple(self._segment(index) for index in range(2 * self.bridges + 1))

    def _segment(self, index: int) -> Segment:
        start = self.segment_frames * index - (index + 1) // 2 * self.head - index // 2 * self.tail
        if index % 2:
            return Segment(index, start, self.segment_frames, "bridge", self.head, self.tail)
        return Segment(index, start, self.segment_frames, "base", 0, 0)

    def overlap(self, index: int) -> int:
        """How many frames a segment shares with the one after it; 0 for the last."""
        if index == len(self.segments) - 1:
            return 0
        return self.tail if index % 2 else self.head

    def driving_frames(self, index: int) -> np.ndarray:
        """The indices (F,) of the driving frames that a segment follows, reflected at both ends of the video."""
        segment = self.segments[index]
        period = max(1, 2 * (self.frames - 1))
        phase = np.arange(segment.start, segment.start + segment.frames) % period
        return np.minimum(phase, period - phase)

    def dependencies(self, index: int) -> tuple[int, ...]:
        """What must exist first: for the anchor none, for a base the anchor, for a bridge both neighbours."""
        if index == self.anchor:
            return ()
        return (index - 1, index + 1) if index % 2 else (self.anchor,)

    def order(self) -> tuple[int, ...]:
        """All segments, each after its dependencies and as early on the timeline as that allows.

        Generated in this order, frames are finished all along: besides the anchor, one base waits for its bridge.
        """
        order = [self.anchor]
        for base in range(0, len(self.segments), 2):
            if base != self.anchor:
                order.append(base)
            if base > 0:
                order.append(base - 1)
        return tuple(order)

    def given(self, index: int) -> np.ndarray:
        """Which frames of a segment are given to it, (F,) bool; of a base segment none."""
        segment = self.segments[index]
        frames = np.arange(segment.frames)
        return (frames < segment.head) | (frames >= segment.frames - segment.tail)

    def with_given_frames(
        self, index: int, frames: np.ndarray, generated: Mapping[int, np.ndarray]
    ) -> np.ndarray:
        """A segment's frames (F, H, W, 3) of a driving video, the given ones exactly as its neighbours made them.

        generated: segment index -> (F, H, W, 3) frames of at least a bridge's two neighbours. Raises `ValueError` where
        one is missing.
        """
        if self.segments[index].kind == "base":
            return frames
        if missing := [neighbour for neighbour in self.dependencies(index) if neighbour not in generated]:
            raise ValueError(
                f"bridge {index} needs the frames of segment {missing[0]}; generate that one first"
            )
        head, tail = generated[index - 1][-self.head :], generated[index + 1][: self.tail]
        return np.concatenate([head, frames[self.head : -self.tail], tail])


def plan(
    frames: int,
    segment_frames: int = 81,
    head: int = 21,
    tail: int = 20,
    anchor: int = 0,
    planner: Literal["fitted", "published"] = "fitted",
) -> Plan:
    """The plan for `frames` driving frames with segments of at most `segment_frames` frames.

    `published` is the authors' plan: every segment has `segment_frames` frames. `fitted` has as many segments, of the
    shortest legal length (4 k + 1 frames, in bridges 4 or more of them new) that still covers the video: 82 frames cost
    3 x 45 generated ones in place of 3 x 81. Raises `ValueError` for impossible numbers.
    """
    published = Plan(frames, segment_frames, head, tail, anchor)
    if planner == "published":
        return published
    if planner != "fitted":
        raise ValueError(f"there is no planner {planner!r}; choose 'fitted' or 'published'")
    bridges = published.bridges
    shortest = _shortest(head, tail) if bridges else 1
    needed = _ceil_div(frames + bridges * (head + tail), 2 * bridges + 1)
    return Plan(frames, max(shortest, 4 * _ceil_div(needed - 1, 4) + 1), head, tail, anchor)


def _bridges(frames: int, segment_frames: int, head: int, tail: int) -> int:
    """The fewest bridges with which the segments cover the video; each brings a base segment along."""
    if frames <= segment_frames:
        return 0
    return _ceil_div(frames - segment_frames, 2 * segment_frames - head - tail)


def _shortest(head: int, tail: int) -> int:
    """The shortest segment of a plan with bridges. No three segments overlap, as head + tail fit into any base."""
    return head + tail + FEWEST_NEW_FRAMES


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class Stitcher:
    """Joins a plan's segments into one video of uint8 frames, given them in any order.

    Over an overlap of n frames the earlier segment's weight falls linearly from 1 to 0 (`np.linspace(1, 0, n)`), in
    float64 and rounded once, so a still picture stays itself. Each frame depends only on its segments, never on the
    order of their arrival. It copies no more than the overlaps: leave the arrays that it was given unchanged.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._waiting: dict[int, np.ndarray] = {}
        self._next = 0  # the segment to join next
        self._ending = np.empty(0)  # the last joined segment's frames that overlap the next one
        self._finished = 0
        self._picture: tuple[int, ...] | None = None  # (H, W), from the first segment to arrive

    @property
    def finished(self) -> bool:
        """Whether every frame of the video has been returned; segments past its end need not be added."""
        return self._finished == self._plan.frames

    @property
    def held_bytes(self) -> int:
        """The size of the frames that wait for other segments."""
        return self._ending.nbytes + sum(frames.nbytes for frames in self._waiting.values())

    def add(self, index: int, frames: np.ndarray) -> list[np.ndarray]:
        """Takes a segment and returns the video's next finished frames, each (H, W, 3) uint8, in order; often none.

        frames: (F, H, W, 3), uint8 or float, both in grey levels 0..255 (floats beyond are clipped). Raises
        `ValueError` for a segment that the plan lacks or that came before, and for frames of another shape or value.
        """
        self._check(index, frames)
        self._waiting[index] = frames
        self._picture = frames.shape[1:3]
        joined: list[np.ndarray] = []
        while self._next in self._waiting:
            joined += self._join(self._waiting.pop(self._next))
        video = joined[: self._plan.frames - self._finished]
        self._finished += len(video)
        return video

    def _join(self, frames: np.ndarray) -> Iterator[np.ndarray]:
        """The frames that are final once this next segment of the timeline has come."""
        overlap = len(self._ending)
        for weight, earlier, later in zip(np.linspace(1, 0, overlap), self._ending, frames, strict=False):
            yield _rounded(weight * earlier + (1 - weight) * later)
        last = len(frames) - self._plan.overlap(self._next)
        for frame in frames[overlap:last]:
            yield _rounded(frame)
        self._ending = frames[last:].copy()  # a copy lets go of the rest
        self._next += 1

    def _check(self, index: int, frames: np.ndarray) -> None:
        segments = self._plan.segments
        if index not in range(len(segments)):
            raise ValueError(f"the plan has no segment {index}; its segments are 0 to {len(segments) - 1}")
        if index < self._next or index in self._waiting:
            raise ValueError(f"segment {index} was added before; add each segment once")
        shape = (segments[index].frames, *(self._picture or frames.shape[1:3]), 3)
        if frames.shape != shape:
            raise ValueError(
                f"segment {index} has shape {frames.shape}; the plan and the segments before ask for {shape}"
            )
        if frames.dtype != np.uint8 and not np.issubdtype(frames.dtype, np.floating):
            raise ValueError(
                f"segment {index} is {frames.dtype}; give uint8 or float frames in grey levels 0..255"
            )
        if frames.dtype != np.uint8 and not all(np.isfinite(frame).all() for frame in frames):
            raise ValueError(f"segment {index} holds NaN or infinite values; it was not generated soundly")


def _rounded(frame: np.ndarray) -> np.ndarray:
    """A frame in grey levels as uint8, to the nearest (a half to the even one)."""
    return frame if frame.dtype == np.uint8 else np.rint(frame.clip(0, 255)).astype(np.uint8)

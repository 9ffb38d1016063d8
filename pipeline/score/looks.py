"""When a clip is looked at closely, and what a count of such looks is worth.

A network that is asked once is sometimes wrong, so one answer decides nothing: whatever a look finds is looked for
again in the frames that follow, and a share of looks is given with its uncertainty. Short clips are looked at more
often, so that every clip is judged by a number of looks that can tell.
"""

from __future__ import annotations

import numpy as np

MOST_APART_S = 1.0
LEAST_LOOKS = 8
"""Looks at a clip, however short."""
AGAIN_S = 0.1
"""Seconds to a further look: the scene is the same, the network's input is not."""
FURTHER = 2
"""Further looks after one that found something."""
ONE_SIDED = 1.645
"""Standard deviations of a normal distribution below which 95 % of it lie."""


class Looks:
    """The moments at which a clip of so many seconds is looked at.

    `due` begins a look; `found` asks for further ones, to which `further` is true.
    """

    def __init__(self, seconds: float) -> None:
        self._apart = min(MOST_APART_S, seconds / LEAST_LOOKS)
        self._next = self._regular = -np.inf
        self._left = 0
        self.further = False

    def due(self, time: float) -> bool:
        """Whether the frame of this time (seconds, not before the last one's) is to be looked at."""
        if time < self._next - 1e-6:
            return False
        self.further = self._left > 0
        if self.further:
            self._left -= 1
        else:
            self._regular = time + self._apart
        self._next = time + AGAIN_S if self._left else max(self._regular, time)
        return True

    def found(self, time: float) -> None:
        """The look at this time found something: it is followed by further ones."""
        self._left, self._next = FURTHER, time + AGAIN_S


def at_least(count: int, looks: int) -> float:
    """The share of looks, 0..1, that `count` of `looks` show with 95 % confidence: one of five shows 0.05, three of
    five 0.27, 36 of 60 0.49; 0 for no looks.
    """
    return wilson(count, looks, ONE_SIDED)[0]


def wilson(count: int, total: int, deviations: float) -> tuple[float, float]:
    """Both ends of the interval of a share, 0..1, of which `count` of `total` were counted; 0 and 1 for a total of 0.

    deviations: of a normal distribution, 1.96 for 95 % between the ends. Source: E. B. Wilson, Probable inference, the
    law of succession, and statistical inference, JASA 1927.
    """
    if not total:
        return 0.0, 1.0
    share, noise = count / total, deviations**2 / total
    middle = share + noise / 2
    spread = deviations * np.sqrt(share * (1 - share) / total + noise / (4 * total))
    low, high = (middle - spread) / (1 + noise), (middle + spread) / (1 + noise)
    return float(max(0.0, low)), float(min(1.0, high))

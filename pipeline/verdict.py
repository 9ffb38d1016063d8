"""Kept or rejected: thresholds applied to stored scores, so that changing one needs no model run.

A rule that cannot be evaluated rejects: nothing passes because a measurement is missing, unless the rule itself says
so. Every reason is a sentence that begins with the score's name. Failed clips stay failed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from posegen.dataset import SCORES

DEFAULT = Path(__file__).with_name("thresholds.yaml")


class ThresholdsError(ValueError):
    """A thresholds file cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Rule:
    """Bounds of one score, both inclusive."""

    score: str
    min: float = -math.inf
    max: float = math.inf
    when_missing: str = "reject"

    def reason(self, value: float | None) -> str | None:
        """Why a clip of this score is rejected; None where it passes."""
        if value is None or math.isnan(value):
            return None if self.when_missing == "pass" else f"{self.score}: not measured"
        # Stored scores are float32, so bounds are rounded like them: a score of 0.1 is not above a bound of 0.1.
        if value < np.float32(self.min):
            return f"{self.score}: {value:.3g} is below {self.min:g}"
        if value > np.float32(self.max):
            return f"{self.score}: {value:.3g} is above {self.max:g}"
        return None


@dataclass(frozen=True)
class Thresholds:
    """The rules of one thresholds file; `hash` names this set of rules in every row it judged."""

    rules: tuple[Rule, ...]
    near_duplicate_bits: int
    hash: str

    def reasons(self, scores: Mapping[str, Any]) -> list[str]:
        """Why a clip of these scores is rejected, in the file's order; empty where it is kept."""
        return [reason for rule in self.rules if (reason := rule.reason(scores.get(rule.score)))]


def load_thresholds(path: Path = DEFAULT) -> Thresholds:
    """Reads a YAML file like thresholds.yaml. Raises ThresholdsError where it is not one."""
    try:
        text = path.read_text()
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ThresholdsError(f"{path} cannot be read as thresholds: {reason}") from error
    if not isinstance(content, dict):
        raise ThresholdsError(f"{path} must hold one `score: {{min: .., max: ..}}` a line")
    bits = content.pop("near_duplicate_bits", 0)
    if type(bits) is not int or not 0 <= bits <= 63:
        raise ThresholdsError(
            f"{path}: near_duplicate_bits is {bits!r}; give a whole number of bits from 0 to 63"
        )
    rules = tuple(_rule(path, score, bounds) for score, bounds in content.items())
    return Thresholds(rules, bits, hashlib.sha256(text.encode()).hexdigest()[:16])


def _rule(path: Path, score: str, bounds: Any) -> Rule:
    if score not in SCORES:
        raise ThresholdsError(f"{path}: there is no score {score!r}; choose from {', '.join(SCORES)}")
    if not isinstance(bounds, dict) or not bounds:
        raise ThresholdsError(f"{path}: {score} must be like {{min: 0, max: 1}}")
    for name, value in bounds.items():
        if name in ("min", "max"):
            fits = type(value) in (int, float) and not math.isnan(value)
        else:
            fits = name == "when_missing" and value in ("pass", "reject")
        if not fits:
            raise ThresholdsError(
                f"{path}: {score} has {name}: {value!r}; give min and max as numbers, when_missing as pass or reject"
            )
    return Rule(score, **bounds)

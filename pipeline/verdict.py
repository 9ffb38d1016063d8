"""Kept or rejected: thresholds applied to stored scores, so that changing one needs no model run.

A rule that cannot be evaluated rejects: no clip passes because a measurement is missing, unless the rule itself allows
it. Every reason is a sentence that begins with the score's name. Failed clips stay failed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from posegen.dataset import ABOUT_PERSON, OPTIONAL_SCORES, SCORES, content_id

NOBODY = "one_person: nobody was found"
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
    """The rules that clips are judged by.

    unmeasured: scores whose rules are left out, as nothing measures them. semantic_duplicate_cosine: of the embeddings
    of two clips from which one is rejected; None where embeddings are not compared.
    """

    rules: tuple[Rule, ...]
    near_duplicate_bits: int
    unmeasured: tuple[str, ...] = ()
    semantic_duplicate_cosine: float | None = None

    @property
    def hash(self) -> str:
        """Names these rules in every row that they judged: 16 hexadecimal digits."""
        cosine = self.semantic_duplicate_cosine
        compared = () if cosine is None else (cosine,)
        return content_id("thresholds", self.near_duplicate_bits, *compared, *self.rules)[:16]

    def reasons(self, scores: Mapping[str, Any]) -> list[str]:
        """Why a clip of these scores is rejected, in the order of the rules; empty where it is kept.

        Of a clip without anybody no rule about the person is told, but that nobody was found.
        """
        nobody = scores.get("one_person") == 0 and scores.get("person_height") is None
        reasons = []
        for rule in self.rules:
            if reason := rule.reason(scores.get(rule.score)):
                reasons.append(NOBODY if nobody and rule.score in ABOUT_PERSON else reason)
        return list(dict.fromkeys(reasons))

    def without(self, score: str) -> Thresholds:
        """The same, but for a run in which nothing measures this score; its rule, if there is one, is not applied."""
        rules = tuple(rule for rule in self.rules if rule.score != score)
        return replace(self, rules=rules, unmeasured=(*self.unmeasured, score))


def load_thresholds(path: Path = DEFAULT) -> Thresholds:
    """The rules of thresholds.yaml, but for those that the YAML file `path` gives anew, or drops by `score: null`.

    Raises ThresholdsError for a file that is none, an unknown score and a rule that makes no sense.
    """
    content = _read(DEFAULT) | _read(path)
    bits = content.pop("near_duplicate_bits")
    if type(bits) is not int or not 0 <= bits <= 63:
        raise ThresholdsError(
            f"{path}: near_duplicate_bits is {bits!r}; give a whole number of bits from 0 to 63"
        )
    cosine = content.pop("semantic_duplicate_cosine")
    if cosine is not None and not (type(cosine) is float and 0 < cosine < 1):
        raise ThresholdsError(
            f"{path}: semantic_duplicate_cosine is {cosine!r}; give a number between 0 and 1, such as 0.98, or null"
        )
    scores = [*SCORES, *OPTIONAL_SCORES]
    if unknown := [score for score in content if score not in scores]:
        raise ThresholdsError(f"{path}: there is no score {unknown[0]!r}; choose from {', '.join(scores)}")
    rules = (_rule(path, score, bounds) for score, bounds in content.items() if bounds is not None)
    return Thresholds(tuple(rules), bits, semantic_duplicate_cosine=cosine)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ThresholdsError(f"{path} cannot be read as thresholds: {reason}") from error
    if not isinstance(content, dict):
        raise ThresholdsError(f"{path} must hold one `score: {{min: .., max: ..}}` a line")
    return content


def _rule(path: Path, score: str, bounds: Any) -> Rule:
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

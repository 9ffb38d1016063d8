"""A clip passes by what was measured, never for want of it; a thresholds file that is wrong is said to be."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.verdict import DEFAULT, NOBODY, Rule, Thresholds, ThresholdsError, load_thresholds
from posegen.dataset import ABOUT_PERSON, SCORES

SHARES = st.floats(0, 1)


def load(folder: Path, text: str) -> Thresholds:
    path = folder / "thresholds.yaml"
    path.write_text(text)
    return load_thresholds(path)


def names(thresholds: Thresholds) -> list[str]:
    return [rule.score for rule in thresholds.rules]


@pytest.mark.parametrize("missing", [None, math.nan])
def test_what_was_not_measured_is_rejected_unless_the_rule_lets_it_pass(missing: float | None):
    assert Rule("blur").reason(missing) == "blur: not measured"
    assert Rule("blur", max=0.5, when_missing="pass").reason(missing) is None


def test_bounds_are_inclusive_and_reasons_say_the_figures():
    rule = Rule("brightness", min=0.25, max=0.5)
    assert [rule.reason(value) for value in (0.25, 0.3, 0.5)] == [None] * 3
    assert rule.reason(0.2) == "brightness: 0.2 is below 0.25"
    assert rule.reason(0.75) == "brightness: 0.75 is above 0.5"


@settings(deadline=None)
@given(SHARES, SHARES, SHARES)
def test_a_rule_holds_for_stored_scores_as_for_exact_ones(low: float, high: float, value: float):
    stored = float(np.float32(value))
    rule = Rule("blur", min=low, max=high)
    assert (rule.reason(stored) is None) == (rule.reason(value) is None)
    assert Rule("blur", min=value, max=value).reason(stored) is None


def test_reasons_come_in_the_order_of_the_rules():
    thresholds = Thresholds((Rule("blur", max=0.5), Rule("frames", min=81), Rule("text_area", max=0.1)), 0)
    assert thresholds.reasons({"frames": 80, "blur": 0.9, "text_area": 0.0}) == [
        "blur: 0.9 is above 0.5",
        "frames: 80 is below 81",
    ]
    assert thresholds.reasons({"frames": 81, "blur": 0.5, "text_area": 0.1}) == []
    assert thresholds.reasons({}) == [f"{score}: not measured" for score in ("blur", "frames", "text_area")]


def test_of_a_clip_without_anybody_one_sentence_says_so():
    nobody = {"one_person": 0.0, "seconds": 1.0, "frames": 100.0, "text_area": 0.0}
    reasons = load_thresholds().reasons(nobody)
    assert "seconds: 1 is below 2" in reasons
    assert [reason for reason in reasons if reason.split(":")[0] in ABOUT_PERSON] == [NOBODY]
    somebody = load_thresholds().reasons(nobody | {"person_height": 0.5})
    assert NOBODY not in somebody and "one_person: 0 is below 0.975" in somebody


def test_a_score_without_a_rule_rejects_nothing():
    thresholds = Thresholds((Rule("blur", max=0.5),), 0)
    assert thresholds.reasons({"blur": 0, "unsafe": 1.0, "frames": None}) == []


def test_a_file_changes_the_rules_that_it_names_and_no_other(tmp_path: Path):
    default = load_thresholds()
    changed = load(tmp_path, "text_area: {max: 0.4}\nblur: null\nnear_duplicate_bits: 2")
    assert changed.near_duplicate_bits == 2
    assert names(changed) == [name for name in names(default) if name != "blur"]
    others = {rule for rule in default.rules if rule.score not in ("text_area", "blur")}
    assert set(changed.rules) == others | {Rule("text_area", max=0.4)}


def test_how_near_embeddings_may_be_is_set_like_the_rules(tmp_path: Path):
    assert load_thresholds().semantic_duplicate_cosine == 0.99
    assert load(tmp_path, "semantic_duplicate_cosine: 0.95").semantic_duplicate_cosine == 0.95
    without = load(tmp_path, "semantic_duplicate_cosine: null")
    assert without.semantic_duplicate_cosine is None and without.hash != load_thresholds().hash


def test_a_rule_on_what_a_head_of_ones_own_measures_can_be_written(tmp_path: Path):
    changed = load(tmp_path, "aesthetics: {min: 5}")
    assert set(changed.rules) - set(load_thresholds().rules) == {Rule("aesthetics", min=5)}
    assert "aesthetics: 4.5 is below 5" in changed.reasons({"aesthetics": 4.5})


def test_the_demo_changes_how_short_and_small_a_clip_may_be_and_nothing_else():
    default, demo = load_thresholds(), load_thresholds(DEFAULT.with_name("thresholds_demo.yaml"))
    assert names(demo) == names(default) and demo.near_duplicate_bits == default.near_duplicate_bits
    assert {rule.score for rule in set(demo.rules) - set(default.rules)} == {
        "seconds",
        "frames",
        "source_side",
    }


def test_what_nothing_measures_has_no_rule_and_is_said_to(tmp_path: Path):
    thresholds = load(tmp_path, "unsafe: {max: 0.2}")
    without = thresholds.without("unsafe")
    assert without.unmeasured == ("unsafe",) and "unsafe" not in names(without)
    assert without.hash != thresholds.hash
    assert "unsafe: not measured" in thresholds.reasons({}) and "unsafe: not measured" not in without.reasons(
        {}
    )


@pytest.mark.parametrize("name", [DEFAULT.name, "thresholds_demo.yaml"])
def test_the_files_that_come_along_are_good(name: str):
    thresholds = load_thresholds(DEFAULT.with_name(name))
    assert {rule.score for rule in thresholds.rules} <= SCORES.keys()
    assert len(thresholds.reasons({})) == sum(rule.when_missing == "reject" for rule in thresholds.rules)


def test_the_hash_follows_from_the_content_alone(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    first = load(tmp_path, "blur: {max: 0.5}")
    assert load(tmp_path / "elsewhere", "blur: {max: 0.5}") == first
    assert load(tmp_path, "blur: {max: 0.6}").hash != first.hash


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must hold one `score:"),
        ("- blur", "must hold one `score:"),
        ("blur: {max: 0.5", "cannot be read as thresholds: while parsing"),
        ("blurr: {max: 0.5}", "no score 'blurr'; choose from seconds, frames,"),
        ("blurr: null", "no score 'blurr'"),
        ("blur: 0.5", "blur must be like {min: 0, max: 1}"),
        ("blur: {}", "blur must be like"),
        ("blur: {most: 0.5}", "blur has most: 0.5; give min and max as numbers"),
        ("blur: {max: much}", "blur has max: 'much'; give min and max as numbers"),
        ("blur: {max: yes}", "blur has max: True; give"),
        ("blur: {max: .nan}", "blur has max: nan; give"),
        ("blur: {max: }", "blur has max: None; give"),
        ("blur: {max: 1, when_missing: keep}", "blur has when_missing: 'keep'; give .* pass or reject"),
        ("near_duplicate_bits: 64", "near_duplicate_bits is 64; give a whole number of bits from 0 to 63"),
        ("near_duplicate_bits: -1", "near_duplicate_bits is -1"),
        ("near_duplicate_bits: 1.5", "near_duplicate_bits is 1.5"),
        ("near_duplicate_bits: true", "near_duplicate_bits is True"),
        ("semantic_duplicate_cosine: 1.0", "semantic_duplicate_cosine is 1.0; give a number between 0 and 1"),
        ("semantic_duplicate_cosine: 0", "semantic_duplicate_cosine is 0; give"),
        ("semantic_duplicate_cosine: .nan", "semantic_duplicate_cosine is nan; give"),
        ("semantic_duplicate_cosine: much", "semantic_duplicate_cosine is 'much'; give"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(tmp_path: Path, text: str, sentence: str):
    with pytest.raises(ThresholdsError, match=sentence) as raised:
        load(tmp_path, text)
    assert str(raised.value).startswith(str(tmp_path / "thresholds.yaml"))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path):
    with pytest.raises(ThresholdsError, match=r"none.yaml cannot be read as thresholds: .*No such file"):
        load_thresholds(tmp_path / "none.yaml")
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ThresholdsError, match=r"picture.yaml cannot be read"):
        load_thresholds(tmp_path / "picture.yaml")

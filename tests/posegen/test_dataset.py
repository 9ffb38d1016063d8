"""Ids follow from content alone, and nothing enters a table but what its schema declares."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from posegen.dataset import (
    CLIPS,
    MEDIA,
    SCORES,
    DatasetError,
    content_id,
    pack_keypoints,
    table,
    unpack_keypoints,
)

ROW: dict[str, Any] = {"clip_id": "c", "path": "a.mp4", "status": "kept", "reasons": []}


def test_an_id_is_the_hash_of_its_parts():
    assert content_id("video", 1.5, None) == hashlib.sha256(b"video\x1f1.5\x1fNone").hexdigest()[:24]


def test_parts_do_not_run_together():
    assert len({content_id("ab", "c"), content_id("a", "bc"), content_id("abc"), content_id("abc", "")}) == 4


def test_a_row_needs_only_its_required_columns():
    row = table([ROW], CLIPS).to_pylist()[0]
    assert row == dict.fromkeys(CLIPS.names) | ROW


def test_no_rows_make_an_empty_table_of_the_schema():
    assert table([], MEDIA).schema == MEDIA


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"colour": "red"}, "'colour'"),
        ({"status": None}, "'status' is empty in row 'c'"),
        ({"blur": "much"}, "does not fit"),
        ({"width": 2**40}, "does not fit"),
        ({"caption": 3}, "does not fit"),
        ({"reasons": 3}, "does not fit"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change: dict[str, Any], sentence: str):
    with pytest.raises(DatasetError, match=sentence):
        table([ROW | change], CLIPS)


def test_every_score_is_a_float32_column():
    assert {CLIPS.field(name).type for name in SCORES} == {pa.float32()}


def test_keypoints_come_back_as_they_were():
    keypoints = np.random.default_rng(0).normal(size=(5, 133, 3)).astype(np.float32)
    keypoints[2] = np.nan
    row = table([ROW | pack_keypoints(keypoints)], CLIPS).to_pylist()[0]
    np.testing.assert_array_equal(unpack_keypoints(row), keypoints)

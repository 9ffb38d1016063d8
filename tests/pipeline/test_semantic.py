"""Clips that show the same, by made embeddings whose duplicates are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import CurateConfig
from pipeline.journals import score_journal
from pipeline.records.journal import Files
from pipeline.score.semantic import (
    BLOCK,
    SCALE,
    assign,
    cluster_centres,
    fixed_point,
    semantic_duplicates,
)
from pipeline.semantic import COMPARED, centres_of, compare, divide, embedded, sample
from pipeline.tables.join import JOINED
from pipeline.tables.verdicts import SAME, reject_same
from posegen.dataset import FAILED, KEPT, REJECTED, content_id, embedding_field, table

WIDTH = 32


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def scattered(count: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """Unit vectors without two that are near, for widths of some tens."""
    return unit(np.random.default_rng(seed).normal(size=(count, width)))


def turned(*degrees: float) -> np.ndarray:
    """Unit vectors of the plane at these angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def duplicates(vectors: np.ndarray, cosine: float = 0.9, videos: list[int] | None = None) -> list[int]:
    labels = np.array(videos if videos is not None else range(len(vectors)))
    return semantic_duplicates(fixed_point(vectors), labels, cosine).tolist()


def test_of_a_pair_the_first_stays_and_what_is_alone_stays() -> None:
    vectors = scattered(40)
    vectors[[7, 30]] = unit(vectors[2] + 0.02 * scattered(2, 1))
    assert {row: other for row, other in enumerate(duplicates(vectors)) if other >= 0} == {7: 2, 30: 2}
    assert duplicates(vectors[:1]) == [-1] and duplicates(vectors[:0]) == []


def test_of_a_chain_both_ends_stay() -> None:
    assert np.cos(np.radians(20)) > 0.9 > np.cos(np.radians(40))
    assert duplicates(turned(0, 20, 40)) == [-1, 0, -1]
    assert duplicates(turned(20, 0, 40)) == [-1, 0, 0]
    assert duplicates(turned(0, 40, 20)) == [-1, -1, 0]  # near both, it points at the better one


def test_a_cosine_at_the_bound_counts_and_equal_clips_always_do() -> None:
    pair = np.array([[1.0, 0.0], [0.8, 0.6]])
    assert duplicates(pair, 0.8) == [-1, 0] and duplicates(pair, 0.8001) == [-1, -1]
    equal = np.repeat(scattered(1), 5, axis=0)
    assert duplicates(equal, 0.999999) == [-1, 0, 0, 0, 0]


def test_clips_of_one_video_are_never_duplicates_of_each_other() -> None:
    equal = np.repeat(scattered(1), 4, axis=0)
    assert duplicates(equal, videos=[3, 3, 0, 3]) == [-1, -1, 0, -1]
    assert duplicates(equal, videos=[3, 5, 3, 5]) == [-1, 0, -1, 0]


def test_blocks_change_nothing() -> None:
    """As one matrix says that holds all pairs."""
    some = scattered(2500, width=8)
    vectors = some[np.random.default_rng(1).integers(0, len(some), 3 * BLOCK + 5)]
    vectors = unit(vectors + 0.1 * scattered(len(vectors), 2, 8))
    whole = fixed_point(vectors).astype(np.int64)
    lengths = np.sqrt((whole**2).sum(axis=1))
    near = whole @ whole.T >= 0.95 * lengths[:, None] * lengths
    expected: list[int] = []
    for row in range(len(vectors)):
        before = [other for other in np.flatnonzero(near[row, :row]).tolist() if expected[other] < 0]
        expected.append(before[0] if before else -1)
    found = duplicates(vectors, 0.95)
    assert found == expected and BLOCK < sum(other < 0 for other in found) < len(vectors)


def test_cosines_are_exact_whatever_the_order_of_the_sum() -> None:
    vectors = fixed_point(scattered(50, width=2048).astype(np.float16))
    assert np.abs(np.linalg.norm(vectors, axis=1) / SCALE - 1).max() < 1e-3
    exact = vectors.astype(np.int64) @ vectors.astype(np.int64).T
    shuffled = vectors[:, np.random.default_rng(0).permutation(2048)]
    np.testing.assert_array_equal(shuffled @ shuffled.T, exact)
    one = fixed_point(np.eye(1, 36_000))
    spread = fixed_point(np.full((1, 36_000), 36_000**-0.5))
    assert (one @ one.T).item() == SCALE**2 and (spread @ spread.T).item() < 2**24


def test_clusters_hold_what_lies_together() -> None:
    kinds = scattered(6)
    truth = np.random.default_rng(0).integers(0, 6, 500)
    vectors = fixed_point(unit(kinds[truth] + 0.05 * scattered(500, 1)))
    centres = cluster_centres(vectors, 6 * 4)  # more than there are, so that none holds two
    nearest = assign(vectors, centres)
    assert all(len(set(truth[nearest == cluster])) == 1 for cluster in set(nearest.tolist()))
    np.testing.assert_array_equal(cluster_centres(vectors, 24), centres)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), SCALE, rtol=1e-3)


def test_few_vectors_make_few_clusters_and_one_is_enough() -> None:
    vectors = fixed_point(scattered(3))
    np.testing.assert_array_equal(assign(vectors, cluster_centres(vectors, 8)), [0, 1, 2])
    assert assign(vectors, cluster_centres(vectors, 1)).tolist() == [0, 0, 0]
    equal = np.repeat(vectors[:1], 5, axis=0)
    assert assign(equal, cluster_centres(equal, 3)).tolist() == [0] * 5  # the first of equal centres


Embedded = dict[str, np.ndarray]
"""Embeddings by clip id."""


def shown(embeddings: Embedded, **columns: dict[str, Any]) -> pa.Table:
    """Kept clips as tasks hand them on; columns: of some clips, else all are alike, each of a video of its own."""
    like = {"width": 480, "height": 360, "blur": 0.5}
    rows = [
        {"clip_id": clip_id, "embedding": vector.astype(np.float16).tolist()}
        | {"video": columns.get("video", {}).get(clip_id, clip_id)}
        | {name: columns.get(name, {}).get(clip_id, value) for name, value in like.items()}
        for clip_id, vector in embeddings.items()
    ]
    fields = [JOINED.field(name) for name in COMPARED]
    return pa.Table.from_pylist(rows, pa.schema([*fields, embedding_field()]))


def found(groups: list[pa.Table], clusters: int = 1, parts: int = 1, cosine: float = 0.98) -> dict[str, str]:
    """What the tasks find, run one after the other: clip_id -> that of the clip that stays."""
    centres = centres_of(clusters, *(sample(group, 1.0) for group in groups))
    divided = [divide(group, centres, parts) for group in groups]
    same = [compare(cosine, *(tables[part] for tables in divided)) for part in range(parts)]
    assert all(table.schema.equals(SAME) for table in same)
    rows = pa.concat_tables(same).to_pylist()
    assert all(cosine <= row["cosine"] < 1.001 for row in rows) and len(rows) == len(
        {r["clip_id"] for r in rows}
    )
    return {row["clip_id"]: row["duplicate_of"] for row in rows}


def crowd(count: int = 300) -> Embedded:
    """Clips of which about a third nearly equal another."""
    kinds = scattered(2 * count // 3)
    chosen = kinds[np.random.default_rng(3).integers(0, len(kinds), count)]
    vectors = unit(chosen + 0.02 * scattered(count, 4))
    return {content_id("clip", number): vector for number, vector in enumerate(vectors)}


def test_the_larger_then_the_sharper_then_the_first_clip_stays() -> None:
    one, other, third, fourth = (content_id(number) for number in range(4))
    ids = sorted([one, other, third, fourth])
    equal = dict.fromkeys(ids, scattered(1)[0])
    assert found([shown(equal)]) == dict.fromkeys(ids[1:], ids[0])
    assert found([shown(equal, blur={ids[2]: 0.1})]) == dict.fromkeys({*ids} - {ids[2]}, ids[2])
    large = shown(equal, blur={ids[2]: 0.1}, width={ids[3]: 640})
    assert found([large]) == dict.fromkeys(ids[:3], ids[3])


def test_what_is_told_of_videos_holds_for_clips_in_tables() -> None:
    ids = sorted(content_id(number) for number in range(3))
    equal = dict.fromkeys(ids, scattered(1)[0])
    assert found([shown(equal, video={ids[0]: "a", ids[1]: "a", ids[2]: "b"})]) == {ids[2]: ids[0]}


def test_neither_the_order_of_rows_nor_how_they_are_shared_out_matters() -> None:
    clips = crowd()
    ids = list(clips)
    same = found([shown(clips)], clusters=4)
    assert len(clips) / 6 < len(same) < len(clips)
    np.random.default_rng(0).shuffle(ids)
    shuffled = {clip_id: clips[clip_id] for clip_id in ids}
    groups = [shown({clip_id: clips[clip_id] for clip_id in ids[first::7]}) for first in range(7)]
    assert found([shown(shuffled)], clusters=4, parts=3) == same
    assert found([*groups, shown({})], clusters=4, parts=2) == same
    assert found([shown({})]) == {}


def test_clusters_lose_few_of_the_pairs() -> None:
    clips = crowd(1500)
    all_pairs = found([shown(clips)])
    in_clusters = found([shown(clips)], clusters=10)
    assert len(in_clusters) > 0.95 * len(all_pairs)


def test_a_sample_is_drawn_by_the_ids_alone() -> None:
    clips = crowd(2000)
    drawn = sample(shown(clips), 0.25)["clip_id"].to_pylist()
    assert 400 < len(drawn) < 600
    reverse = sample(shown(dict(reversed(clips.items()))), 0.25)["clip_id"].to_pylist()
    assert reverse == drawn[::-1]


def test_clips_without_an_embedding_are_not_compared_and_not_lost(tmp_path: Path) -> None:
    config = CurateConfig("in", str(tmp_path), embedder="a/model")
    clips = crowd(4)
    ids, video = list(clips), content_id("video")
    journal = score_journal(config)
    for number, clip_id in enumerate(ids):
        row = {"clip_id": clip_id, "embedding": clips[ids[0]].astype(np.float16) if number < 3 else None}
        journal.write(video, clip_id, table([row], journal.schema))
    files = journal.pack(video[:2], journal.files()[video[:2]])
    blank = dict.fromkeys(JOINED.names) | {"video": video, "status": KEPT, "reasons": [], "path": "a.mp4"}
    rows = [blank | {"clip_id": clip_id, "record": clip_id, "video": content_id(clip_id)} for clip_id in ids]
    rows[2] |= {"status": REJECTED, "reasons": ["blur: 1 is above 0.7"]}
    rows.append(blank | {"clip_id": content_id("no record"), "status": FAILED})
    joined = pa.Table.from_pylist(rows, JOINED)
    with_vectors = embedded(config, files, joined)
    assert with_vectors["clip_id"].to_pylist() == ids[:2]
    assert embedded(config, Files(), joined).num_rows == 0
    (same,) = [compare(0.9, *divide(with_vectors, centres_of(1, with_vectors), 1))]
    after = {row["clip_id"]: row for row in reject_same(joined, same).to_pylist()}
    assert len(after) == 5
    first, second = sorted(ids[:2])
    assert after[second]["duplicate_of"] == first and after[second]["status"] == REJECTED
    assert after[second]["reasons"] == [f"semantic_duplicate: shows what clip {first} shows (cosine 1.000)"]
    untouched = [row for row in joined.to_pylist() if row["clip_id"] != second]
    assert [after[row["clip_id"]] for row in untouched] == untouched

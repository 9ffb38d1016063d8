"""Finds kept clips of the whole dataset that show the same, in tasks that each hold a part of the embeddings.

Embeddings go from the records into Ray's object store and from there to the tasks that compare them; the driver holds
names and counts. What is found depends on the clips alone: the sample that clusters are made of is drawn by clip ids,
and whatever is compared is put in order first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import CurateConfig
from pipeline.journals import score_journal
from pipeline.records.journal import Files
from pipeline.score.semantic import assign, cluster_centres, cosines, fixed_point, semantic_duplicates
from pipeline.tables.verdicts import SAME, kept
from pipeline.tasks import Ref, light_task, sizes

CLUSTER = 4096
"""Clips of a cluster, on average."""
SAMPLE = 32
"""Clips of each cluster that its centre is found by, on average."""
LEAST_SAMPLE = 1024
PART = 16 * CLUSTER
"""Clips that one task compares, on average: those of some clusters."""
COMPARED = ["clip_id", "width", "height", "blur", "video"]


def find_semantic_duplicates(
    config: CurateConfig, cosine: float, scores: Mapping[str, Files], rows: Mapping[str, Ref]
) -> list[Ref]:
    """Which of the kept clips show what a better one shows, in tables `SAME`. Those without an embedding do not.

    cosine: of the embeddings of two clips that show the same, or more. scores: the records' files by group. rows: the
    rows (`JOINED`) of each group.
    """
    tables = [
        light_task(embedded).remote(config, scores.get(group, Files()), rows[group]) for group in sorted(rows)
    ]
    total = sum(sizes(tables))
    if total < 2:
        return []
    clusters = -(-total // CLUSTER)
    share = max(clusters * SAMPLE, LEAST_SAMPLE) / total
    samples = [light_task(sample).remote(table, share) for table in tables]
    centres = light_task(centres_of).remote(clusters, *samples)
    parts = 1 + total // PART
    divided = [light_task(divide, returns=parts + 1).remote(table, centres, parts) for table in tables]
    return [
        light_task(compare).remote(cosine, *(of_group[part] for of_group in divided)) for part in range(parts)
    ]


def embedded(config: CurateConfig, files: Files, rows: pa.Table) -> pa.Table:
    """The kept rows of a group that have an embedding: `COMPARED` and `embedding`."""
    ours = kept(rows)
    found = score_journal(config).rows(files, ["clip_id", "embedding"])
    found = found.filter(pc.is_valid(found["embedding"])).combine_chunks()
    place = pc.index_in(ours["record"], value_set=found["clip_id"])
    there = pc.is_valid(place)
    vectors = found["embedding"].take(place.filter(there))
    return ours.select(COMPARED).filter(there).append_column("embedding", vectors)


def sample(clips: pa.Table, share: float) -> pa.Table:
    """About this share of clips, 0..1, by their ids, which are hashes: `clip_id` and `embedding`."""
    places = np.array([int(clip_id[:8], 16) for clip_id in clips["clip_id"].to_pylist()], np.float64)
    return clips.select(["clip_id", "embedding"]).filter(pa.array(places < share * 16.0**8))


def centres_of(clusters: int, *samples: pa.Table) -> np.ndarray:
    """The centres of clusters of these clips, see `cluster_centres`."""
    drawn = pa.concat_tables(samples).sort_by("clip_id")
    return cluster_centres(fixed_point(vectors_of(drawn)), clusters)


def divide(clips: pa.Table, centres: np.ndarray, parts: int) -> list[pa.Table]:
    """The clips of each part, with the column `cluster`; whole clusters lie in one part. The last table is empty.

    So there are always several tables, as a task that returns one would return it bare.
    """
    nearest = assign(fixed_point(vectors_of(clips)), centres) if clips.num_rows else np.zeros(0, np.int32)
    clips = clips.append_column("cluster", pa.array(nearest))
    part = nearest.astype(np.int64) * parts // max(len(centres), 1)
    return [clips.filter(pa.array(part == number)) for number in range(parts + 1)]


def compare(cosine: float, *tables: pa.Table) -> pa.Table:
    """The duplicates (`SAME`) among the clips of some clusters; of two the larger, then the sharper one stays.

    Two clips of one video show a person in other poses, or two people, before one background: that is no duplicate,
    though their embeddings may be as near as those of copies.
    """
    clips = pa.concat_tables(tables)
    order = ranked(clips)
    clips, vectors = clips.drop_columns("embedding").take(order), vectors_of(clips)[order.to_numpy()]
    videos = clips["video"].combine_chunks().dictionary_encode().indices.to_numpy()
    ids, clusters = clips["clip_id"], clips["cluster"].to_numpy()
    found = [SAME.empty_table()]
    for cluster in np.unique(clusters):
        start, stop = np.searchsorted(clusters, [cluster, cluster + 1])
        points = fixed_point(vectors[start:stop])
        stands_for = semantic_duplicates(points, videos[start:stop], cosine)
        ours = np.flatnonzero(stands_for >= 0)
        others = stands_for[ours]
        both = (ids.take(pa.array(start + rows)) for rows in (ours, others))
        found.append(pa.table([*both, cosines(points[ours], points[others])], SAME))
    return pa.concat_tables(found)


def ranked(clips: pa.Table) -> pa.Array:
    """The order of clips by cluster, and in it from the one that stays first."""
    keys = clips.select(["cluster", "blur", "clip_id"]).append_column(
        "pixels", pc.multiply(clips["width"], clips["height"])
    )
    by = [("cluster", "ascending"), ("pixels", "descending"), ("blur", "ascending"), ("clip_id", "ascending")]
    return pc.sort_indices(keys, by)


def vectors_of(clips: pa.Table) -> np.ndarray:
    """The column `embedding` of N clips, (N, width) float16."""
    parts = [chunk for chunk in clips["embedding"].chunks if len(chunk)]
    if not parts:
        return np.zeros((0, 0), np.float16)
    return np.concatenate([chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in parts])

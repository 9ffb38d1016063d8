"""The whole job with an embedder and a head: columns, semantic duplicates, rules, and what another model means.

The folder holds a talking man, a copy of him that is smaller, brighter, lacks a part of the border and is encoded
again, and a drawn rabbit. Every rule but those on embeddings is off. The perceptual hashes of man and copy differ by 6
bits and more, so hashes find nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.config import CurateConfig
from pipeline.curate import run
from pipeline.sample_videos import SAMPLES
from posegen.common.storage import StorageError
from posegen.common.weights import wheel_file
from posegen.dataset import CLIPS, SCORES, embedding_field
from posegen.video import probe, read_frames, save_video
from testkit.tiny_clip import WIDTH, save_head, save_tiny_clip

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

MAN, COPY, RABBIT = "man.mp4", "copy.mp4", "rabbit.mp4"
COSINE = 0.985
"""Between that of man and copy by the random model, 0.996, and those of the others."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    shutil.copyfile(wheel_file(*SAMPLES["rabbit.mp4"]), folder / RABBIT)
    talk = probe(wheel_file(*SAMPLES["talk.mp4"]))
    frames = np.concatenate(list(read_frames(talk, range(90), (480, 360))))
    save_video(frames, folder / MAN, 30)
    part = np.stack([cv2.resize(frame[12:, 16:], (360, 270)) for frame in frames])
    save_video(np.clip(part.astype(int) + 12, 0, 255).astype(np.uint8), folder / COPY, 30)
    return folder


def settings(videos: Path, output: Path, rules: dict[str, Any], **how: Any) -> CurateConfig:
    """A run with the models beside the output, by no rules but these."""
    thresholds = output.parent / "rules.yaml"
    off = dict.fromkeys(SCORES) | {"near_duplicate_bits": 0, "semantic_duplicate_cosine": None}
    thresholds.write_text(yaml.safe_dump(off | rules))
    models = {"embedder": str(output.parent / "clip"), "aesthetics": str(output.parent / "head.pth")}
    return CurateConfig(str(videos), str(output), thresholds=thresholds, **models | how)


@pytest.fixture(scope="module")
def dataset(ray_cluster: str, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run without rules makes of the folder."""
    folder = tmp_path_factory.mktemp("job")
    save_tiny_clip(folder / "clip")
    save_head(folder / "head.pth")
    assert run(settings(videos, folder / "dataset", {}))["kept"] == 3
    return folder / "dataset"


def by_path(output: Path) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in pq.read_table(output / "clips").to_pylist()}


def test_every_clip_has_an_embedding_to_search_by(dataset: Path) -> None:
    rows = by_path(dataset)
    schema = pq.read_table(dataset / "clips").schema.remove_metadata()
    assert schema == pa.schema([*CLIPS, pa.field("aesthetics", pa.float32()), embedding_field(WIDTH)])
    vectors = {path: np.array(row["embedding"], np.float64) for path, row in rows.items()}
    for vector in vectors.values():
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-2)
    assert vectors[MAN] @ vectors[COPY] > COSINE > vectors[MAN] @ vectors[RABBIT]
    query = f"[{', '.join(map(str, vectors[MAN]))}]::FLOAT[{WIDTH}]"
    nearest = duckdb.execute(
        f"select path from '{dataset}/clips/*.parquet' "
        f"order by array_cosine_similarity(embedding::FLOAT[{WIDTH}], {query}) desc"
    )
    assert nearest.fetchall()[:2] == [(MAN,), (COPY,)]


def test_of_clips_that_show_the_same_the_larger_stays(dataset: Path, videos: Path) -> None:
    config = settings(videos, dataset, {"semantic_duplicate_cosine": COSINE}, rescore=True)
    assert run(config)["rejected"] == 1
    rows = by_path(dataset)
    assert {path: row["status"] for path, row in rows.items()} == {
        MAN: "kept",
        COPY: "rejected",
        RABBIT: "kept",
    }
    (reason,) = rows[COPY]["reasons"]
    assert reason.startswith(f"semantic_duplicate: shows what clip {rows[MAN]['clip_id']} shows (cosine 0.99")
    assert rows[COPY]["duplicate_of"] == rows[MAN]["clip_id"]
    assert rows[COPY]["embedding"] is not None
    page = (dataset / "report.html").read_text()
    assert f"a cosine below {COSINE} between its embedding and that of any kept clip of another video" in page
    assert "semantic_duplicate: shows what clip" in page and "score-aesthetics" in page
    assert run(settings(videos, dataset, {}, rescore=True))["kept"] == 3


def test_a_rule_on_the_heads_score_rejects(dataset: Path, videos: Path) -> None:
    scores = {path: row["aesthetics"] for path, row in by_path(dataset).items()}
    best, others = max(scores, key=scores.__getitem__), sorted(scores.values())[:-1]
    least = (scores[best] + others[-1]) / 2
    run(settings(videos, dataset, {"aesthetics": {"min": float(least)}}, rescore=True))
    rows = by_path(dataset)
    assert [path for path, row in rows.items() if row["status"] == "kept"] == [best]
    assert all(row["reasons"][0].startswith("aesthetics: ") for path, row in rows.items() if path != best)


def test_scores_of_another_model_are_not_taken_over(dataset: Path, videos: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset.parent / "clip", tmp_path / "other")
    with pytest.raises(StorageError, match="holds no finished scores of these settings"):
        run(settings(videos, dataset, {}, embedder=str(tmp_path / "other"), rescore=True))

"""Embeddings of pictures and clips, and the scores that a head gives them, by tiny random models."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil, CLIPVisionModel, CLIPVisionModelWithProjection

from pipeline.config import CurateConfig
from pipeline.curate import check_embedder
from pipeline.plan.source import Source
from pipeline.score.embedder import ClipEmbedder, EmbedderError, load_head, make_embedder, width_of
from pipeline.score.embedding import FRAMES, Embedder, Embedding
from pipeline.score.scorer import SCORED, make_scorer, scored_schema
from pipeline.verdict import Rule, Thresholds, load_thresholds
from pipeline.workers import SetupError
from posegen.common.storage import Folder
from posegen.common.weights import WeightsError
from testkit import ROOT
from testkit.tiny_clip import (
    HIDDEN,
    SIDE,
    WIDTH,
    predictor,
    save_head,
    save_processor,
    save_tiny_clip,
    save_wan_folders,
    save_whole_clip,
)
from testkit.videos import write_video

NOBODY: list[list] = []


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)


def embedded(model: Path, frame: np.ndarray) -> np.ndarray:
    """A picture's embedding by the project's code."""
    embedder = make_embedder(CurateConfig("in", "out", embedder=str(model)))
    return embedder.embed(embedder.prepare(frame)[None])[0]


def test_a_picture_is_embedded_as_clip_itself_does(model: Path):
    pixels = CLIPImageProcessorPil.from_pretrained(model)(images=[picture()], return_tensors="pt")
    network = CLIPVisionModelWithProjection.from_pretrained(model)
    with torch.no_grad():
        expected = network(pixels["pixel_values"]).image_embeds[0].numpy()
    np.testing.assert_allclose(
        embedded(model, picture()), expected / np.linalg.norm(expected), rtol=0, atol=1e-6
    )
    assert width_of(str(model)) == WIDTH


def test_wans_own_folder_will_do_with_the_processor_beside_it(tmp_path: Path):
    encoder = save_wan_folders(tmp_path)
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path / "image_processor")
    with torch.no_grad():
        pixels = processor(images=[picture()], return_tensors="pt")["pixel_values"]
        expected = CLIPVisionModel.from_pretrained(encoder)(pixels).pooler_output[0].numpy()
    np.testing.assert_allclose(
        embedded(encoder, picture()), expected / np.linalg.norm(expected), rtol=0, atol=1e-6
    )
    assert width_of(str(encoder)) == HIDDEN


def test_a_folder_with_the_text_model_will_do(tmp_path: Path):
    whole = save_whole_clip(tmp_path)
    assert width_of(str(whole)) == WIDTH and np.linalg.norm(embedded(whole, picture())) == pytest.approx(1)


def test_a_folder_that_will_not_do_is_told_in_a_sentence(model: Path, tmp_path: Path):
    with pytest.raises(EmbedderError, match="no CLIP model could be found under '/nowhere' as a folder"):
        width_of("/nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(EmbedderError, match="is a bert model: give a CLIP vision model"):
        width_of(str(tmp_path))
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(EmbedderError, match=r"bare has no preprocessor_config.json in it or in image_proc"):
        embedded(bare, picture())
    save_processor(bare, side=2 * SIDE)
    with pytest.raises(EmbedderError, match=r"bare takes pictures of 16 x 16, and its preprocessor"):
        embedded(bare, picture())
    CLIPVisionModel.from_pretrained(model).save_pretrained(bare)
    shutil.copyfile(model / "config.json", bare / "config.json")  # says that there is a projection
    with pytest.raises(EmbedderError, match=r"bare lacks weights of CLIPVisionModelWithProjection, such as"):
        ClipEmbedder(str(bare))


def test_a_clip_is_the_mean_of_frames_spread_over_it():
    looked: list[int] = []

    def prepare(frame: np.ndarray) -> np.ndarray:
        looked.append(int(frame[0, 0, 0]))
        return np.full((3, 1, 1), frame[0, 0, 0], np.float32)

    def embed(pictures: np.ndarray) -> np.ndarray:
        angles = pictures[:, 0, 0, 0] / 100
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    frames = np.broadcast_to(np.arange(80, dtype=np.uint8)[:, None, None, None], (80, 2, 2, 3))
    times = np.arange(80) / 10
    whole = Embedding(Embedder(prepare, embed, lambda vectors: vectors[:, 0]), 8.0)
    whole.update(frames, NOBODY, times)
    assert looked == [10, 30, 50, 70] and len(looked) == FRAMES
    parts = Embedding(Embedder(prepare, embed), 8.0)
    for first in range(0, 80, 7):
        parts.update(frames[first : first + 7], NOBODY, times[first : first + 7])
    found, again = whole.result(), parts.result()
    assert found["embedding"].dtype == np.float16
    np.testing.assert_array_equal(found["embedding"], again["embedding"])
    np.testing.assert_allclose(found["embedding"], [np.cos(0.4), np.sin(0.4)], atol=1e-3)
    assert found["aesthetics"] == pytest.approx(np.cos([0.1, 0.3, 0.5, 0.7]).mean())
    assert again["aesthetics"] is None
    assert Embedding(Embedder(prepare, embed), 8.0).result() == {"embedding": None, "aesthetics": None}


def test_a_head_scores_as_the_published_network_does(tmp_path: Path):
    vectors = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
    with torch.no_grad():
        expected = predictor()(torch.from_numpy(vectors))[:, 0].numpy()
    np.testing.assert_allclose(
        load_head(str(save_head(tmp_path / "head.pth")), WIDTH)(vectors), expected, 1e-4
    )
    linear = torch.nn.Linear(WIDTH, 1)
    save_file(linear.state_dict(), tmp_path / "head.safetensors")
    with torch.no_grad():
        expected = linear(torch.from_numpy(vectors))[:, 0].numpy()
    np.testing.assert_allclose(load_head(str(tmp_path / "head.safetensors"), WIDTH)(vectors), expected, 1e-4)


def test_a_head_that_will_not_do_is_told_in_a_sentence(tmp_path: Path):
    path = save_head(tmp_path / "head.pth")
    with pytest.raises(
        EmbedderError, match=r"layer 1 has weights of shape \(8, 12\) .* 1024 numbers: give the"
    ):
        load_head(str(path), 1024)
    torch.save({f"layers.{n}.{kind}": torch.zeros(1, 1) for n in (0, 3) for kind in ("weight", "bias")}, path)
    with pytest.raises(EmbedderError, match="which is not LAION's linear predictor"):
        load_head(str(path), 1)
    torch.save({"weight": torch.zeros(2, WIDTH), "bias": torch.zeros(2)}, path)
    with pytest.raises(EmbedderError, match="gives 2 numbers where one score is needed"):
        load_head(str(path), WIDTH)
    for content in (b"no weights", b""):
        path.write_bytes(content)
        with pytest.raises(EmbedderError, match="cannot be read as a head's weights"):
            load_head(str(path), WIDTH)
    torch.save([1, 2], path)
    with pytest.raises(EmbedderError, match="cannot be read as a head's weights"):
        load_head(str(path), WIDTH)
    with pytest.raises(WeightsError):
        load_head(str(tmp_path / "nothing" / "head.pth"), WIDTH)


def test_settings_that_make_no_sense_are_told_before_the_job(model: Path, tmp_path: Path):
    head = str(save_head(tmp_path / "head.pth"))
    none, rule = load_thresholds(), Thresholds((Rule("aesthetics", min=5),), 4)
    check_embedder(CurateConfig("in", "out"), none)
    check_embedder(CurateConfig("in", "out", embedder=str(model), aesthetics=head), rule)
    wrong: list[tuple[dict[str, Any], Thresholds, str]] = [
        ({"embedder": str(model)}, rule, "has a rule for aesthetics; give the head as --aesthetics too"),
        ({"aesthetics": head}, none, "give the model that makes them as --embedder too"),
        ({"embedder": "/nowhere"}, none, "no CLIP model could be found"),
        (
            {"embedder": str(save_wan_folders(tmp_path)), "aesthetics": head},
            none,
            "have 16 numbers: give the",
        ),
    ]
    for settings, rules, sentence in wrong:
        with pytest.raises(SetupError, match=sentence):
            check_embedder(CurateConfig("in", "out", **settings), rules)


def test_a_record_has_the_columns_that_were_asked_for(model: Path, tmp_path: Path):
    write_video(tmp_path / "numbers.mp4", range(60))
    head = str(save_head(tmp_path / "head.pth"))
    clip = {"clip_id": "c1", "path": "numbers.mp4", "start": 0, "stop": 0.5, "rate": 30.0}
    both = CurateConfig(str(tmp_path), "out", embedder=str(model), aesthetics=head)
    alone = CurateConfig(str(tmp_path), "out", embedder=str(model))
    with Source(Folder(str(tmp_path)), "numbers.mp4") as source:
        record = make_scorer(both)(clip, source)
    assert record.schema.equals(scored_schema(both))
    (row,) = record.to_pylist()
    assert len(row["embedding"]) == WIDTH and np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-2)
    assert row["aesthetics"] is not None
    assert scored_schema(CurateConfig("in", "out")).equals(SCORED)
    assert set(scored_schema(alone).names) - set(SCORED.names) == {"embedding"}
    versions = {config.score_version for config in (both, alone, CurateConfig("in", "out"))}
    assert len(versions) == 3


def test_who_asks_for_no_embedding_does_not_import_what_makes_it():
    lines = (
        "import sys, pipeline.score.scorer as s; from pipeline.config import CurateConfig",
        "s.make_embedder(CurateConfig('in', 'out'), None); import pipeline.tables.write as w",
        "w.table_schema(CurateConfig('in', 'out'))",
        "sys.exit('pipeline.score.embedder' in sys.modules or 'transformers' in sys.modules)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT)
    assert done.returncode == 0

"""The stage of vLLM as far as it goes without a GPU: configuration, questions, and what is made of answers."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ray.data.llm import vLLMEngineProcessorConfig

from pipeline.caption.captioner import FRAMES
from pipeline.caption.vllm import answer, engine, jpegs, make_processor, make_request, recorded
from pipeline.config import CurateConfig
from pipeline.journals import CAPTIONED
from testkit.tiny_qwen import save_tiny_qwen
from testkit.videos import number_of, write_video


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CurateConfig:
    model = save_tiny_qwen(tmp_path_factory.mktemp("model"))
    return CurateConfig(
        "videos",
        "dataset",
        captioner=str(model),
        caption_engine="vllm",
        caption_prompt="What?",
        caption_tokens=50,
    )


def test_an_engine_is_rays_own_configuration_of_the_model(config: CurateConfig) -> None:
    found = engine(config, replicas=8)
    assert isinstance(found, vLLMEngineProcessorConfig)
    assert (found.model_source, found.concurrency) == (config.captioner, 8)
    assert found.should_continue_on_error
    assert found.engine_kwargs["limit_mm_per_prompt"] == {"image": FRAMES}


def test_the_stages_are_built_without_a_gpu(config: CurateConfig) -> None:
    stages = make_processor(config, 1).list_stage_names()
    assert stages[0] == "PrepareMultimodalStage" and "vLLMEngineStage" in stages


def test_the_model_is_asked_the_users_question_about_frames_of_the_clip(
    config: CurateConfig, tmp_path: Path
) -> None:
    media = write_video(tmp_path / "clip.mp4", range(60)).read_bytes()
    frames = jpegs({"rate": 30.0}, {"media": media, "media_start": 0.5, "seconds": 1.0})
    row = make_request(config)({"clip_id": "c1", "video_id": "v1", "frames": frames})
    assert (row["clip_id"], row["video_id"]) == ("c1", "v1")
    assert row["sampling_params"] == {"max_tokens": 50, "temperature": 0.0}
    (message,) = row["messages"]
    *pictures, question = message["content"]
    assert message["role"] == "user" and question == {"type": "text", "text": "What?"}
    seen = [picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,") for picture in pictures]
    decoded = [Image.open(io.BytesIO(base64.b64decode(url))) for url in seen]
    assert [number_of(np.asarray(picture)) for picture in decoded] == [18, 26, 33, 41]


def test_answers_are_recorded_by_their_clip_and_errors_fail_it_alone(config: CurateConfig) -> None:
    said = answer({"clip_id": "c1", "video_id": "v1", "generated_text": "Two men\n dance.", "messages": []})
    record = recorded(said, config)
    assert record.schema.equals(CAPTIONED)
    (row,) = record.to_pylist()
    assert (row["clip_id"], row["subject"], row["caption_source"]) == ("c1", "man", config.captioner)
    assert row["caption"] == "A man dance."
    failed = {"clip_id": "c2", "video_id": "v1", "__inference_error__": "too long"}
    (row,) = recorded(failed, config).to_pylist()
    assert (row["clip_id"], row["error_stage"], row["error_message"]) == ("c2", "caption", "too long")

"""Decoding beside denoising: the same frames in the same order, one segment behind, and errors where they belong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posegen.longvideo.decoding import Decoder, one_behind
from posegen.longvideo.sampling import Step
from posegen.pipeline import PoseGenPipeline
from testkit.tiny_model import picture, tiny_pipeline, tiny_vae, walking

FRAMES = 47  # five segments
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def pipeline() -> PoseGenPipeline:
    return tiny_pipeline()


@pytest.fixture
def beside(pipeline: PoseGenPipeline, monkeypatch: pytest.MonkeyPatch) -> PoseGenPipeline:
    monkeypatch.setattr(pipeline, "decodes_beside", True)
    return pipeline


def chunks(pipeline: PoseGenPipeline, store: Path | None = None, callback: Any = None) -> list[np.ndarray]:
    return list(
        pipeline.generate(pipeline.job(picture(), walking(FRAMES), "the woman dances"), store, callback)
    )


def test_the_same_frames_are_handed_over(pipeline: PoseGenPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = chunks(pipeline)
    monkeypatch.setattr(pipeline, "decodes_beside", True)
    made = chunks(pipeline)
    assert [len(chunk) for chunk in made] == [len(chunk) for chunk in expected]
    assert all(np.array_equal(*pair) for pair in zip(made, expected, strict=True))


def test_a_segment_is_decoded_while_the_next_one_is_denoised(
    beside: PoseGenPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The anchor's decoding waits until the next segment has taken a step; neither could go on were they in turn."""
    stepped = threading.Event()
    decode = Decoder._beside

    def patient(self: Decoder, *arguments: Any) -> np.ndarray:
        assert stepped.wait(PATIENCE_S)
        return decode(self, *arguments)

    def callback(index: int, step: Step) -> None:
        if index != 0:
            stepped.set()

    monkeypatch.setattr(Decoder, "_beside", patient)
    assert sum(map(len, chunks(beside, callback=callback))) == FRAMES


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_denoised_is_handed_over_and_kept_before_an_error(
    beside: PoseGenPipeline, tmp_path: Path, error: type[BaseException]
) -> None:
    def interrupt(index: int, step: Step) -> None:
        if index == 2:
            raise error

    job = beside.job(picture(), walking(FRAMES), "the woman dances")
    made = beside.generate(job, tmp_path, interrupt)
    assert len(next(made)) == 8  # of the anchor, all but what the bridge will change
    with pytest.raises(error):
        next(made)
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_of_decoding_arrives_as_it_is(
    beside: PoseGenPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(vae: Any, latents: torch.Tensor) -> torch.Tensor:
        raise MemoryError("no room to decode")

    monkeypatch.setattr("posegen.longvideo.decoding.decode_latents", full)
    with pytest.raises(MemoryError, match="no room to decode"):
        chunks(beside)


def test_a_consumer_may_stop_early(beside: PoseGenPipeline) -> None:
    made = beside.generate(beside.job(picture(), walking(FRAMES), "the woman dances"))
    next(made)
    del made


def test_one_segment_waits_at_most() -> None:
    latents, started = torch.zeros(1, 16, 1, 2, 2), []

    def made(decoder: Decoder) -> Iterator[Any]:
        for index in range(4):
            started.append(index)
            yield index, decoder.decode(latents)

    for beside, ahead in ((False, 1), (True, 2)):
        started.clear()
        with Decoder(tiny_vae(), beside) as decoder:
            behind = [len(started) - index for index, _ in one_behind(made(decoder), beside)]
        assert behind == [ahead, ahead, ahead, 1]

"""How a model is put on a machine: the same frames wherever its parts lie."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from posegen.loading import Placement, offload_pipeline_blocks
from posegen.model.backends import BACKENDS, Attention, check_attention
from posegen.sharing import HostRecord
from posegen.source import ModelSource
from testkit.tiny_model import picture, save_tiny_model, tiny_pipeline, walking

FRAMES = 30  # two base segments and a bridge, so the adapters are switched


def test_blocks_that_come_one_after_the_other_make_the_same_frames() -> None:
    pipeline, offloaded = tiny_pipeline(), tiny_pipeline()
    offload_pipeline_blocks(offloaded, torch.device("cpu"))
    arguments = picture(), walking(FRAMES), "a woman dances"
    assert np.array_equal(offloaded(*arguments).frames, pipeline(*arguments).frames)


def test_the_vae_is_exact_whatever_the_rest_computes_in(tmp_path: Path) -> None:
    pipeline = Placement("cpu", "bfloat16", tiling=True).load(ModelSource(save_tiny_model(tmp_path)))
    assert (pipeline.transformer.dtype, pipeline.vae.dtype) == (torch.bfloat16, torch.float32)
    assert pipeline.vae.use_tiling


def test_the_record_lies_where_it_was_asked_for() -> None:
    assert isinstance(Placement("cuda", "bfloat16").empty_record(), HostRecord)
    assert not isinstance(Placement("cuda", "bfloat16", record="device").empty_record(), HostRecord)
    assert Placement.here("cpu").record == "device"  # there is no other memory


def test_compiled_blocks_make_the_same_frames(tmp_path: Path) -> None:
    """To float tolerance: a pixel is off by one of 255 at most. With sharing, which runs outside of compiled code."""
    source = ModelSource(save_tiny_model(tmp_path))
    plain, compiled = (
        Placement.here("cpu", compile=way).load(source)(picture(), walking(FRAMES), "a woman dances").frames
        for way in (False, True)
    )
    assert np.abs(plain.astype(int) - compiled).max() <= 1


def test_attention_by_name_reaches_the_blocks(tmp_path: Path) -> None:
    """Where the name can be used is asked before; on a CPU, cuDNN's kernels refuse."""
    pipeline = Placement("cpu", "float32", attention="cudnn").load(ModelSource(save_tiny_model(tmp_path)))
    for block in pipeline.transformer.blocks:
        for attention in (block.attn1, block.attn2):
            assert attention.processor._attention_backend == BACKENDS["cudnn"]
    assert tiny_pipeline()(
        picture(), walking(FRAMES), "a woman dances"
    ).frames.any()  # others are not concerned


def test_a_package_that_attention_needs_is_named() -> None:
    for name, package in (("flash", "flash-attn"), ("flash3", "flash_attn_3"), ("sage", "sageattention")):
        with pytest.raises(ValueError, match=f"Attention by {name} needs the package {package}"):
            check_attention(name, "cuda")  # type: ignore[arg-type]
    assert {*BACKENDS} == {*get_args(Attention)}


def test_the_options_of_a_placement_are_those_of_the_command_line() -> None:
    way = Placement("cuda", "bfloat16", tiling=True, offload="blocks", attention="sage", compile=True)
    assert way.options == "--tiling --offload blocks --attention sage --compile"
    overlapping = Placement("cuda", "bfloat16", overlap=True)
    assert [other.options for other in overlapping.smaller()[:3]] == ["--overlap", "", "--tiling"]
    assert all(smaller.attention == "sage" and smaller.compile for smaller in way.smaller())


def test_products_in_fp8_need_weights_in_fp8(tmp_path: Path) -> None:
    source = ModelSource(save_tiny_model(tmp_path), fp8_products=True)
    with pytest.raises(ValueError, match="no layer that could multiply in fp8"):
        Placement("cpu", "bfloat16").load(source)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "cpu", "offload": "parts"}, "nothing to offload from a CPU"),
        ({"device": "cpu", "processes": 2, "offload": "parts"}, "leave the device and --offload parts out"),
        ({"device": "cpu", "attention": "sage"}, "Attention by sage needs an NVIDIA GPU"),
        ({"device": "cpu", "processes": 2, "compile": True}, "Several processes do not compile"),
        ({"device": "cpu", "overlap": True}, "Decoding beside denoising needs both on a GPU"),
        ({"device": "cuda:9"}, "There is no device 'cuda:9' here"),
    ],
)
def test_placements_that_cannot_be_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Placement.here(**options)  # type: ignore[arg-type]

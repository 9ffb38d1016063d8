"""The transformer is the authors' network, and what diffusers offers for its models works on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from peft import LoraConfig

from posegen.model.attention import RotaryPositions, rotary_table
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.sharing import AnchorReader, AnchorRecorder, GivenForeground, SharedRange, SharedRecord
from testkit.reference_model import (
    DIM,
    GRID,
    LATENT_CHANNELS,
    VIDEO_TOKENS,
    Inputs,
    Reference,
    relative_error,
    small_inputs,
    small_transformer,
)

SMALL_WAN: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": DIM // 4,
    "in_channels": 2 * LATENT_CHANNELS + 4,
    "out_channels": LATENT_CHANNELS,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 64,
    "num_layers": 2,
    "image_dim": 16,
    "added_kv_proj_dim": DIM,
}


@torch.no_grad()
def output(model: PoseGenTransformer3DModel, inputs: Inputs, **more: Any) -> torch.Tensor:
    return model(**inputs, **more).sample


def only(inputs: Inputs, item: int) -> Inputs:
    return {name: None if value is None else value[item : item + 1] for name, value in inputs.items()}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"shift_reference": False, "hand_channels": None},
        {"hand_projection": True, "image_dim": None, "added_kv_proj_dim": None},
    ],
    ids=["shifted with hands", "unshifted without hands", "projected hands, no CLIP"],
)
def test_the_output_is_that_of_the_network_written_out(config: dict[str, Any]):
    model = small_transformer(**config)
    inputs = small_inputs(model, batch=2)
    reference = Reference(model)
    for item, made in enumerate(output(model, inputs)):
        assert relative_error(made, reference(inputs, item)) < 2e-6


def test_a_batch_is_its_items_one_by_one():
    model = small_transformer()
    inputs = small_inputs(model, batch=3)
    alone = torch.cat([output(model, only(inputs, item)) for item in range(3)])
    assert relative_error(output(model, inputs), alone) < 1e-6


def test_without_hand_latents_the_hands_are_left_to_the_pose():
    model, without = small_transformer(), small_transformer(hand_channels=None)
    without.load_state_dict(
        {name: value for name, value in model.state_dict().items() if not name.startswith("hand")}
    )
    inputs = small_inputs(model) | {"hand_latents": None}
    assert torch.equal(output(model, inputs), output(without, inputs))


def test_a_missing_reference_is_said():
    model = small_transformer()
    with pytest.raises(ValueError, match="encode the reference picture"):
        model(**small_inputs(model) | {"reference_latents": None})


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="'velocity' or 'sample'"):
        small_transformer(prediction="noise")


def test_video_positions_are_wans():
    latents = torch.zeros(1, 1, GRID[0], 2 * GRID[1], 2 * GRID[2])
    cos, sin = WanRotaryPosEmbed(64, (1, 2, 2), 1024)(latents)
    video, _ = RotaryPositions(64, (1, 2, 2), True)(tuple(latents.shape[2:]), (1, 8, 6), latents.device)
    cosines, sines = video.chunk(2, dim=-1)
    torch.testing.assert_close(cosines, cos)
    torch.testing.assert_close(sines[..., 0::2], -sin[..., 0::2])
    torch.testing.assert_close(sines[..., 1::2], sin[..., 1::2])


@pytest.mark.parametrize("shift", [True, False])
def test_the_reference_stands_left_of_the_video(shift: bool):
    shape = (1, 2 * GRID[1], 2 * GRID[2])
    video, reference = RotaryPositions(64, (1, 2, 2), shift)(shape, shape, torch.device("cpu"))
    first = 44  # of the channels that turn with the column, by one radian a token
    angles = [
        torch.atan2(table[..., 64 + first + 1], table[..., first]).view(GRID[1], GRID[2])
        for table in (video, reference)
    ]
    columns = torch.arange(GRID[2], dtype=torch.float32).expand(GRID[1], -1)
    torch.testing.assert_close(angles[0], columns)
    torch.testing.assert_close(angles[1], columns - GRID[2] if shift else columns)
    for first in (0, 64):  # frames and rows are the same
        torch.testing.assert_close(video[..., first : first + 44], reference[..., first : first + 44])


def test_positions_are_computed_once_for_a_shape_and_may_be_trained_with() -> None:
    model = small_transformer()
    rotary_table.cache_clear()
    with torch.inference_mode():
        output(model, small_inputs(model))
    assert rotary_table.cache_info().misses == 2  # of the video and of the reference
    model(**small_inputs(model)).sample.sum().backward()
    assert rotary_table.cache_info().misses == 2


@pytest.mark.parametrize("backend", ["native", "_native_math", "_native_flash"])
def test_attention_backends(backend: str):
    model = small_transformer()
    inputs = small_inputs(model)
    plain = output(model, inputs)
    model.set_attention_backend(backend)
    try:
        assert relative_error(output(model, inputs), plain) < 1e-6
    finally:
        model.set_attention_backend("native")  # diffusers keeps it for all models


def gradients(model: PoseGenTransformer3DModel, inputs: Inputs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs).sample.square().mean().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def test_gradient_checkpointing_has_the_same_gradients():
    model = small_transformer()
    inputs = small_inputs(model, batch=2)
    expected = gradients(model, inputs)
    assert expected.keys() == dict(model.named_parameters()).keys()
    model.train().enable_gradient_checkpointing()
    for name, gradient in gradients(model, inputs).items():
        torch.testing.assert_close(gradient, expected[name])


def test_adapters_are_added_scaled_and_switched_off():
    model = small_transformer()
    inputs = small_inputs(model)
    plain = output(model, inputs)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v", "ffn.net.2"], init_lora_weights=False))
    adapted = output(model, inputs)
    assert relative_error(adapted, plain) > 1e-3
    scaled = output(model, inputs, attention_kwargs={"scale": 0.5})
    assert relative_error(scaled, plain) > 1e-3 and relative_error(scaled, adapted) > 1e-3
    assert torch.equal(output(model, inputs, attention_kwargs={"scale": 0.0}), plain)
    assert torch.equal(output(model, inputs), adapted)
    model.disable_adapters()
    assert torch.equal(output(model, inputs), plain)


def test_first_block_cache_skips_blocks_only_above_its_threshold():
    model = small_transformer()
    first, second = small_inputs(model), small_inputs(model, seed=1)
    plain = [output(model, inputs) for inputs in (first, second)]
    for threshold, same in ((0.0, True), (1e9, False)):
        model.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        with model.cache_context("guided"):
            assert torch.equal(output(model, first), plain[0])
            assert torch.equal(output(model, second), plain[1]) == same
        model.disable_cache()


def test_a_shared_pass_is_computed_in_full_under_a_cache():
    model = small_transformer()
    first, second = small_inputs(model), small_inputs(model, seed=1)
    shared, foreground = (
        SharedRange(range(2), range(1, 3)),
        GivenForeground(torch.arange(VIDEO_TOKENS)[None] % 3 == 0),
    )

    def segments() -> list[torch.Tensor]:
        record = SharedRecord()
        made = []
        for sharing, inputs in (
            (AnchorRecorder(shared, foreground, record), first),
            (AnchorReader(shared, foreground, record), second),
        ):
            for step in range(3):  # the last does not share
                with model.cache_context("guided"):
                    made.append(output(model, inputs, sharing=sharing.at(step, "guided")))
        assert record.entries.keys() == {*shared.positions(["guided"])}
        return made

    expected = segments()
    model.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    assert all(map(torch.equal, segments(), expected))


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offloading(kind: str, tmp_path: Path):
    model = small_transformer(hand_projection=True)
    inputs = small_inputs(model)
    plain = output(model, inputs)
    groups = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    model.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type=kind, offload_to_disk_path=str(tmp_path), **groups
    )
    assert any(tmp_path.iterdir())
    assert torch.equal(output(model, inputs), plain)


def test_blocks_compile_as_one_graph():
    model = small_transformer(num_layers=2)
    inputs = small_inputs(model)
    plain = output(model, inputs)
    model.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    assert relative_error(output(model, inputs), plain) < 1e-6


def test_compiled_blocks_share():
    model = small_transformer(num_layers=2)
    first, second = small_inputs(model), small_inputs(model, seed=1)
    shared, foreground = (
        SharedRange(range(1), range(1, 2)),
        GivenForeground(torch.arange(VIDEO_TOKENS)[None] % 3 == 0),
    )

    def segments() -> torch.Tensor:
        record = SharedRecord()
        output(model, first, sharing=AnchorRecorder(shared, foreground, record).at(0, "guided"))
        return output(model, second, sharing=AnchorReader(shared, foreground, record).at(0, "guided"))

    expected = segments()
    model.compile_repeated_blocks(backend="eager")
    assert relative_error(segments(), expected) < 1e-6


def test_bfloat16_stays_near_float32():
    model = small_transformer()
    inputs = small_inputs(model)
    exact = output(model, inputs)
    half = {name: None if value is None else value.bfloat16() for name, value in inputs.items()}
    made = output(model.to(torch.bfloat16), half)
    assert made.dtype == torch.bfloat16
    assert relative_error(made, exact) < 0.03
    model.set_attention_backend("native")  # the fused one, which a CPU takes in bf16 only when told to
    assert 0 < relative_error(output(model, half), made) < 0.03


@pytest.mark.parametrize("projection", [False, True])
def test_a_saved_model_is_loaded_again(projection: bool, tmp_path: Path):
    model = small_transformer(hand_projection=projection, prediction="sample", shift_reference=False)
    model.save_pretrained(tmp_path / "transformer")
    loaded = PoseGenTransformer3DModel.from_pretrained(tmp_path, subfolder="transformer")
    assert loaded.config.prediction == "sample" and not loaded.config.shift_reference
    inputs = small_inputs(model)
    assert torch.equal(output(loaded, inputs), output(model, inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_wan_folder_gets_the_missing_embeddings(dtype: torch.dtype, tmp_path: Path):
    torch.manual_seed(0)
    wan = WanTransformer3DModel(**SMALL_WAN)
    wan.save_pretrained(tmp_path / "transformer")
    model = PoseGenTransformer3DModel.from_pretrained(tmp_path, subfolder="transformer", torch_dtype=dtype)
    weights = model.state_dict()
    assert not any(tensor.is_meta for tensor in weights.values())
    for name, tensor in wan.state_dict().items():
        torch.testing.assert_close(weights[name], tensor.to(weights[name].dtype), rtol=0, atol=0)
    assert {name.split(".")[0] for name in weights.keys() - wan.state_dict().keys()} == {
        "reference_patch_embedding",
        "hand_patch_embedding",
    }
    assert not weights["hand_patch_embedding.weight"].any() and not weights["hand_patch_embedding.bias"].any()
    inputs = small_inputs(model)
    inputs = {name: value.to(dtype) for name, value in inputs.items()}
    assert torch.equal(output(model, inputs), output(model, inputs | {"hand_latents": None}))


def test_the_reference_starts_as_a_given_frame_without_noise():
    wan = WanTransformer3DModel(**SMALL_WAN)
    model = PoseGenTransformer3DModel.from_wan(wan)
    latents = torch.randn(1, LATENT_CHANNELS, 1, 4, 6)
    frame = torch.cat([latents, torch.ones(1, 4, 1, 4, 6), latents], dim=1)
    torch.testing.assert_close(model.reference_patch_embedding(latents), model.patch_embedding(frame))


def test_from_wan_takes_over_what_the_folder_says_of_ours():
    wan = WanTransformer3DModel(**SMALL_WAN)
    wan.register_to_config(shift_reference=False, prediction="sample")
    assert not PoseGenTransformer3DModel.from_wan(wan).config.shift_reference
    assert PoseGenTransformer3DModel.from_wan(wan, prediction="velocity").config.prediction == "velocity"


def test_from_wan_takes_tensors_over_and_learns_projected_hands():
    wan = WanTransformer3DModel(**SMALL_WAN)
    model = PoseGenTransformer3DModel.from_wan(wan, hand_projection=True, prediction="sample")
    assert model.proj_out.weight.data_ptr() == wan.proj_out.weight.data_ptr()
    inputs = small_inputs(model)
    assert torch.equal(output(model, inputs), output(model, inputs | {"hand_latents": None}))
    assert gradients(model, inputs)["hand_patch_embedding.1.weight"].any()


def test_a_text_to_video_transformer_is_refused():
    with pytest.raises(ValueError, match="4 input channels is not an image-to-video one"):
        PoseGenTransformer3DModel.from_wan(WanTransformer3DModel(**SMALL_WAN | {"in_channels": 4}))


def test_the_14b_model_is_built_without_memory():
    with torch.device("meta"):
        model = PoseGenTransformer3DModel()
    assert 16.3e9 < sum(parameter.numel() for parameter in model.parameters()) < 16.5e9
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not [*model.buffers()]

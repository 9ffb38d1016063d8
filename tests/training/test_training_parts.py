"""The parts of a training without a cluster: noise, objective, optimiser, engine, log, estimate."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.distributed as dist

from posegen.longvideo.conditions import encode_frames
from posegen.model.checkpoints import save_adapter
from posegen.model.scaled_linear import ScaledLinear
from posegen.model.transformer import PoseGenTransformer3DModel
from testkit.tiny_training import tiny_config, write_tiny_model
from training.checkpoint import EMA
from training.config import AdapterConfig, EngineConfig, NoiseConfig, OptimizerConfig
from training.log import Log, gpu_line, read_log, validation_line
from training.loop import load_transformer
from training.memory import Device, Estimate, EstimateError, estimate
from training.model import frozen
from training.model.adapter import adapter_parameters
from training.sample_videos import load_pipeline
from training.step.engine import WEIGHT, gather_state, restore_state, start_engine
from training.step.noise import noise, sigma, sigmas
from training.step.objective import Examples, velocity_losses
from training.step.optimizer import EMAAdamW, learning_rate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parts")
    write_tiny_model(path / "model")
    return path


@pytest.fixture(scope="module")
def one_process() -> Iterator[None]:
    """A process group of this process alone, on the CPU."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DS_ACCELERATOR", "cpu")
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
            environment.setenv(name, value)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield
        dist.destroy_process_group()


def examples(items: int = 2, seed: int = 0) -> Examples:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(items, *shape, generator=random)

    size = (3, 6, 4)
    levels = torch.rand(items, generator=random)
    return Examples(
        normal(6, *size),
        normal(6, 1, 6, 4),
        normal(10, *size),
        None,
        normal(5, 64),
        None,
        (normal(1, *size) > 0).float(),
        normal(6, *size),
        levels,
    )


def test_noise_is_of_the_item_alone() -> None:
    keys = [("a", 0), ("b", 0), ("a", 1)]
    drawn, levels = noise(7, keys, (6, 3, 6, 4)), sigmas(7, keys, NoiseConfig())
    for index, key in enumerate(keys):
        assert torch.equal(noise(7, [key], (6, 3, 6, 4))[0], drawn[index])
        assert sigmas(7, [key], NoiseConfig())[0] == levels[index]
    assert not torch.equal(drawn[0], drawn[2]) and levels[0] != levels[2]
    assert not torch.equal(noise(8, keys, (6, 3, 6, 4)), drawn)
    assert abs(drawn.std() - 1) < 0.1 and ((levels > 0) & (levels < 1)).all()


def test_noise_levels_are_shifted_as_in_sampling() -> None:
    assert sigma(0.0, NoiseConfig(shift=1.0)) == 0.5
    assert sigma(0.0, NoiseConfig(shift=5.0)) == pytest.approx(5 * 0.5 / (1 + 4 * 0.5))


class Oracle:
    """Knows the clean latents, but for an error, and says them or the velocity."""

    def __init__(self, known: Examples, prediction: str) -> None:
        self.known, self.prediction = known, prediction

    def __call__(self, hidden_states: torch.Tensor, **_: Any) -> Any:
        clean, sigma = self.known.latents + 0.1, self.known.sigmas.view(-1, 1, 1, 1, 1)
        noisy = hidden_states[:, :6]
        sample = clean if self.prediction == "sample" else (noisy - clean) / sigma
        return type("Output", (), {"sample": sample})


def test_both_predictions_have_the_same_loss() -> None:
    known = replace(examples(), sigmas=torch.tensor([0.2, 0.9]))
    losses = [
        velocity_losses(Oracle(known, kind), kind, torch.float32, known, person_weight=3)
        for kind in ("sample", "velocity")
    ]
    assert torch.allclose(losses[0], losses[1], rtol=1e-4)
    assert torch.allclose(losses[0], (0.1 / known.sigmas) ** 2, rtol=1e-4)


def test_errors_weigh_more_where_the_person_is() -> None:
    """Items are weighed by themselves: one with a large person counts for no more than others."""
    person = torch.zeros(2, 1, 3, 6, 4)
    person[0, ..., :2, :], person[1, ..., :3, :] = 1, 1
    known = replace(examples(), person=person, sigmas=torch.ones(2))

    class Wrong:
        def __call__(self, hidden_states: torch.Tensor, **_: Any) -> Any:
            return type("Output", (), {"sample": known.latents + 1 - person})

    plain, weighed = (
        velocity_losses(Wrong(), "sample", torch.float32, known, weight) for weight in (1.0, 4.0)
    )
    assert plain.tolist() == pytest.approx([2 / 3, 1 / 2])
    assert weighed.tolist() == pytest.approx([4 / (4 * 2 + 4), 3 / (4 * 3 + 3)])


def test_the_optimiser_is_torchs_with_an_ema() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(5))
    config = OptimizerConfig(learning_rate=0.1, ema_decay=0.5)
    optimizers = (
        EMAAdamW([ours], config),
        torch.optim.AdamW([theirs], lr=0.1, betas=config.betas, weight_decay=config.weight_decay),
    )
    ema = torch.ones(5)
    for step in range(1, 21):
        gradient = torch.randn(5)
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
        ema += (1 - min(0.5, (1 + step) / (10 + step))) * (ours.detach() - ema)
    assert torch.equal(ours, theirs)
    assert torch.allclose(optimizers[0].state[ours]["ema"], ema)


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, min_lr_factor=0.1)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert (
        rates[0] == pytest.approx(0.1) and max(rates) == max(rates[9:12]) and rates[100] == pytest.approx(0.1)
    )


@torch.no_grad()
def test_an_empty_pose_starts_as_wan_where_no_frame_is_given(folder: Path) -> None:
    config = tiny_config(folder, folder, engine=EngineConfig(precision="float32"))
    plain = PoseGenTransformer3DModel.from_pretrained(folder / "model", subfolder="transformer")
    config = replace(config, adapter=replace(config.adapter, empty_pose=True))
    model = load_transformer(config, torch.device("cpu"))
    grey = encode_frames(frozen.load(str(folder / "model"), "vae"), np.full((1, 9, 48, 32, 3), 128, np.uint8))
    given, seen = examples(), []
    drawn = given.pose_latents[:, 4:]
    for network, pose in ((model, drawn), (plain, grey.expand_as(drawn)), (plain, drawn)):
        hidden_states = torch.cat([given.latents, torch.zeros(2, 4, 3, 6, 4), pose], dim=1)
        inputs = (hidden_states, given.sigmas, given.text)
        seen.append(network(*inputs, reference_latents=given.reference_latents).sample)
    started, without, with_pose = seen
    # The tiny VAE's first basis is only nearly the other one, so grey differs a little from frame to frame.
    assert (started - without).abs().max() < 0.01 * (with_pose - without).abs().max()


def trained_of(model: PoseGenTransformer3DModel) -> dict[str, torch.nn.Parameter]:
    return {name: part for name, part in adapter_parameters(model, "base").items() if part.requires_grad}


def steps(engine: Any, model: PoseGenTransformer3DModel, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        loss = velocity_losses(
            engine, model.config.prediction, model.patch_embedding.weight.dtype, examples(seed=step), 2.0
        ).mean()
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_bf16_leaves_float32_modules_and_resumes_exactly(
    folder: Path, one_process: None, zero_stage: Any
) -> None:
    engine_config = EngineConfig(zero_stage=zero_stage, offload=True, reduce_bucket_size=200_000)
    config = tiny_config(folder, folder, engine=engine_config)

    def start() -> tuple[Any, PoseGenTransformer3DModel]:
        model = load_transformer(config, torch.device("cpu"))
        return start_engine(model, config.engine, config.optimizer, passes=1), model

    engine, model = start()
    dtypes = {name: part.dtype for name, part in model.named_parameters()}
    exact = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    kept = set(PoseGenTransformer3DModel._keep_in_fp32_modules)
    assert exact == {name for name in dtypes if kept & set(name.split("."))} and exact
    steps(engine, model, 0, 3)
    state = copy.deepcopy(gather_state(trained_of(model), keep=True))
    expected = steps(engine, model, 3, 5)

    model = load_transformer(config, torch.device("cpu"))
    with torch.no_grad():
        for name, part in trained_of(model).items():
            part.copy_(state[WEIGHT][name])
    engine = start_engine(model, config.engine, config.optimizer, passes=1)
    restore_state(engine, trained_of(model), state, step=3)
    assert steps(engine, model, 3, 5) == expected


def test_checkpointing_with_offload_has_the_same_gradients(folder: Path) -> None:
    gradients = []
    for checkpointing, offload in ((False, False), (True, False), (True, True)):
        engine_config = EngineConfig(
            precision="float32", gradient_checkpointing=checkpointing, offload=offload
        )
        model = load_transformer(tiny_config(folder, folder, engine=engine_config), torch.device("cpu"))
        velocity_losses(model, "sample", torch.float32, examples(), 1.0).mean().backward()
        gradients.append([part.grad for part in trained_of(model).values()])
    assert all(gradient is not None for gradient in gradients[0])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_base_in_fp8_is_trained_as_one_in_float(
    folder: Path, one_process: None, precision: Literal["float32", "bfloat16"]
) -> None:
    curves = []
    for fp8_base in (False, True):
        engine_config = EngineConfig(
            precision=precision, fp8_base=fp8_base, offload=True, reduce_bucket_size=200_000
        )
        config = tiny_config(folder, folder, engine=engine_config)
        model = load_transformer(config, torch.device("cpu"))
        before = {name: part.clone() for name, part in model.state_dict().items() if ".base_layer." in name}
        engine = start_engine(model, config.engine, config.optimizer, passes=1)
        curves.append(steps(engine, model, 0, 6))
        assert all(torch.equal(model.state_dict()[name], part) for name, part in before.items())
    quantised = [part for part in model.modules() if isinstance(part, ScaledLinear)]
    assert len(quantised) == model.config.num_layers * 10
    assert all(part.dtype == getattr(torch, precision) for part in trained_of(model).values())
    # fp8 rounds weights by up to 2^-4 of themselves, which moves the losses, near 1, by less.
    assert curves[1] == pytest.approx(curves[0], rel=0.02) and curves[1] != curves[0]


@pytest.mark.parametrize("fp8_base", [False, True])
def test_swapped_blocks_are_trained_to_the_same_losses(
    folder: Path, one_process: None, fp8_base: bool
) -> None:
    curves = []
    for count in (0, 1):
        engine_config = EngineConfig(
            precision="float32", fp8_base=fp8_base, blocks_to_swap=count, reduce_bucket_size=200_000
        )
        config = tiny_config(folder, folder, engine=engine_config)
        model = load_transformer(config, torch.device("cpu"))
        engine = start_engine(model, config.engine, config.optimizer, passes=1)
        curves.append(steps(engine, model, 0, 4))
    assert curves[1] == curves[0]
    assert "blocks.0.ffn.net.2.base_layer.weight" not in dict(model.named_parameters())
    assert "blocks.1.ffn.net.2.base_layer.weight" in dict(model.named_parameters())


def test_samples_are_made_by_the_pipeline_with_the_checkpoints_adapter(folder: Path, tmp_path: Path) -> None:
    config = tiny_config(folder, tmp_path, engine=EngineConfig(precision="bfloat16"))
    trained = load_transformer(config, torch.device("cpu"))
    save_adapter(trained, "base", tmp_path / EMA)
    pipeline = load_pipeline(config, tmp_path / EMA)
    assert pipeline.transformer.dtype == torch.bfloat16 and pipeline.vae.dtype == torch.float32
    assert pipeline.text_encoder is None
    (name,) = pipeline.transformer.active_adapters()
    made = adapter_parameters(pipeline.transformer, name)
    assert all(torch.equal(made[key], part) for key, part in adapter_parameters(trained, "base").items())


def test_a_log_that_goes_on_drops_what_lies_behind_its_checkpoint(tmp_path: Path) -> None:
    log = Log(str(tmp_path), 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": float(step)})
    Log(str(tmp_path), 2).write(3, {"loss": 0.5})
    assert [(row["step"], row["loss"]) for row in read_log(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 0.5)]


def test_lines_of_progress_tell_gpu_hours_so_far_and_to_come(tmp_path: Path) -> None:
    assert gpu_line({"loss": 0.5}, 3.0) == ""
    assert gpu_line({"gpu_hours": 1234.56}, 40.0) == "  1,234.6 GPU hours, 40.0 to come"
    log = Log(str(tmp_path), 0)
    for step in (1, 2):
        log.write(step, {"gpu_hours": step / 2})
    assert (
        Log(str(tmp_path), 1).gpu_hours == 0.5
    )  # a training that goes on adds to those before its checkpoint


def test_validation_losses_are_told_with_their_intervals() -> None:
    row = {
        "validation/0.2": 0.5,
        "validation/1": 0.25,
        "validation_interval/0.2": 0.1,
        "validation_interval/1": 0.2,
    }
    assert validation_line(row) == "validation loss by noise level  0.2: 0.5000 ± 0.1000, 1: 0.2500 ± 0.2000"


@pytest.mark.parametrize(
    ("steps", "told"),
    [(60, "60 steps 1 minutes"), (9000, "2.5 hours and 20.0 GPU hours"), (10**6, "12 days")],
)
def test_it_is_told_how_long_a_training_takes(steps: int, told: str) -> None:
    assert told in str(Estimate({"peak": 1}, 1.0, 1, steps, gpus=8.0))


def test_what_cannot_fit_is_refused_in_a_sentence(folder: Path) -> None:
    config = tiny_config(folder, folder, adapter=AdapterConfig(rank=8, alpha=8.0))
    fits = estimate(config, Device("a machine", 1e9, 1e9))
    trained = sum(part.numel() for part in trained_of(load_transformer(config, torch.device("cpu"))).values())
    hands = 48 * (6 * 4 + 1)
    assert fits.trained == trained + hands and fits.step_seconds > 0
    with pytest.raises(EstimateError, match=r"needs .* GB, but its device \(a machine\) has 0.001 GB"):
        estimate(config, Device("a machine", 1e6, 1e9))

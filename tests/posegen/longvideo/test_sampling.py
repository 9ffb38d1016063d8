"""Sampling on networks whose right answer is known, and on a small random transformer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig

from posegen.longvideo.conditions import Conditions
from posegen.longvideo.sampling import Cancelled, Guidance, Step, denoise, initial_noise, schedule
from testkit.tiny_model import tiny_transformer

SHAPE = (1, 16, 2, 4, 4)
GUIDED = Guidance(5.0)
PLAIN = Guidance(1.0)


@dataclass
class Oracle:
    """A network that knows the clean latents; text is what it adds to them. Remembers its passes."""

    clean: torch.Tensor
    prediction: str = "velocity"
    passes: list[tuple[str, float, torch.Size]] = field(default_factory=list)
    dtype: torch.dtype = torch.float32

    @property
    def config(self) -> SimpleNamespace:
        return SimpleNamespace(prediction=self.prediction)

    def _reset_stateful_cache(self) -> None:
        self.passes.clear()

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        self._branch = name
        yield

    def __call__(self, **inputs: Any) -> SimpleNamespace:
        sigma = float(inputs["timestep"][0]) / 1000
        self.passes.append((self._branch, sigma, inputs["hidden_states"].shape))
        clean = self.clean + inputs["encoder_hidden_states"].mean()
        noisy = inputs["hidden_states"][:, : self.clean.shape[1]]
        sample = clean if self.prediction == "sample" else (noisy - clean) / sigma
        return SimpleNamespace(sample=sample)


def conditions(batch: int = 1, negative: bool = True) -> Conditions:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    return Conditions(
        pose=random(20, *SHAPE[2:]),
        reference=random(16, 1, *SHAPE[3:]),
        text=torch.full((batch, 3, 16), 0.5),
        negative_text=torch.zeros(batch, 3, 16) if negative else None,
        image=random(5, 16),
        hands=random(16, *SHAPE[2:]),
    )


def test_steps_are_those_of_the_method() -> None:
    sigmas, timesteps = schedule(25, 5.0)
    expected = [5 * s / (1 + 4 * s) for s in torch.linspace(1, 0, 26)[:-1].tolist()]
    assert sigmas == pytest.approx([*expected, 0])
    assert sigmas[0] == 1 and sigmas[-1] == 0 and len(sigmas) == 26
    assert timesteps == pytest.approx([1000 * sigma for sigma in expected])
    assert schedule(25, 5.0).first(2) == (sigmas[:3], timesteps[:2])
    with pytest.raises(ValueError, match="0 denoising steps are too few"):
        schedule(0, 5.0)


def test_timesteps_are_rounded_and_noise_levels_are_not() -> None:
    """Of 25 steps the published weights were given 992, 984, 976, ... for 991.735, 983.051, 973.913, ..."""
    exact, rounded = schedule(25, 5.0), schedule(25, 5.0, torch.bfloat16)
    assert rounded.sigmas == exact.sigmas
    assert rounded.timesteps[:4] == [1000, 992, 984, 972]
    assert all(timestep % 4 == 0 for timestep in rounded.timesteps if timestep > 512)


@pytest.mark.parametrize("prediction", ["velocity", "sample"])
def test_a_network_that_knows_the_answer_arrives_there(prediction: str) -> None:
    clean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    network = Oracle(clean, prediction)
    latents = denoise(network, conditions(), initial_noise(0, SHAPE), schedule(5, 5.0), PLAIN)
    torch.testing.assert_close(latents, clean + 0.5, rtol=1e-4, atol=1e-4)
    assert {branch for branch, _, _ in network.passes} == {"guided"}
    assert network.passes[0] == ("guided", 1.0, (1, 36, *SHAPE[2:]))


def test_guidance_leads_away_from_the_negative_text() -> None:
    clean = torch.zeros(SHAPE)
    network = Oracle(clean)
    latents = denoise(network, conditions(), initial_noise(0, SHAPE), schedule(4, 5.0), Guidance(3.0))
    torch.testing.assert_close(latents, clean + 3 * 0.5, rtol=1e-4, atol=1e-4)
    assert [branch for branch, _, _ in network.passes] == ["guided", "unguided"] * 4


def test_between_equal_texts_there_is_no_guidance() -> None:
    assert Guidance.between("a man", "a man", 5.0, (0.5, 0.9)) == Guidance(1.0, (0.5, 0.9))
    assert Guidance.between("a man", "", 5.0) == Guidance(5.0)


def test_outside_its_interval_guidance_costs_nothing() -> None:
    network, steps = Oracle(torch.zeros(SHAPE)), schedule(10, 5.0)
    denoise(network, conditions(), initial_noise(0, SHAPE), steps, Guidance(5.0, (0.5, 0.9)))
    guided, unguided = ([s for b, s, _ in network.passes if b == branch] for branch in ("guided", "unguided"))
    assert guided == pytest.approx(steps.sigmas[:-1])
    assert unguided == pytest.approx([sigma for sigma in steps.sigmas if 0.5 <= sigma <= 0.9])
    assert 0 < len(unguided) < 10


def test_guidance_without_a_negative_text_is_refused() -> None:
    network = Oracle(torch.zeros(SHAPE))
    with pytest.raises(ValueError, match="negative_text"):
        denoise(network, conditions(negative=False), initial_noise(0, SHAPE), schedule(1, 5.0), GUIDED)
    assert not network.passes
    denoise(network, conditions(negative=False), initial_noise(0, SHAPE), schedule(1, 5.0), PLAIN)


def test_each_step_is_told_with_a_preview() -> None:
    clean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    told: list[Step] = []
    sigmas = schedule(3, 5.0).sigmas
    latents = denoise(
        Oracle(clean), conditions(), initial_noise(0, SHAPE), schedule(3, 5.0), PLAIN, callback=told.append
    )
    assert [(step.index, step.steps) for step in told] == [(0, 3), (1, 3), (2, 3)]
    assert [step.sigma for step in told] == sigmas[:-1]
    assert torch.equal(told[-1].latents, latents)
    for step in told:
        torch.testing.assert_close(step.preview, clean + 0.5, rtol=1e-4, atol=1e-4)


def test_a_callback_can_cancel() -> None:
    network = Oracle(torch.zeros(SHAPE))

    def callback(step: Step) -> None:
        if step.index == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        denoise(network, conditions(), initial_noise(0, SHAPE), schedule(9, 5.0), GUIDED, callback=callback)
    assert len(network.passes) == 4


def test_noise_comes_from_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = initial_noise(7, SHAPE)
    torch.manual_seed(6)
    assert torch.equal(first, initial_noise(7, SHAPE))
    assert not torch.equal(first, initial_noise(8, SHAPE))
    torch.manual_seed(5)
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_is_its_segments() -> None:
    torch.manual_seed(0)
    transformer = tiny_transformer().eval()
    both, noise = conditions(2), initial_noise(0, (2, *SHAPE[1:]))
    latents = denoise(transformer, both, noise, schedule(2, 5.0), GUIDED)
    for item in range(2):
        one = Conditions(**{name: tensor[item : item + 1] for name, tensor in vars(both).items()})
        alone = denoise(transformer, one, noise[item : item + 1], schedule(2, 5.0), GUIDED)
        torch.testing.assert_close(latents[item : item + 1], alone, rtol=1e-4, atol=1e-4)


def test_a_block_cache_keeps_nothing_from_one_segment_to_the_next() -> None:
    torch.manual_seed(0)
    transformer = tiny_transformer().eval()
    arguments = (transformer, conditions(), initial_noise(0, SHAPE), schedule(4, 5.0), GUIDED)
    plain = denoise(*arguments)
    transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    first = denoise(*arguments)
    assert torch.equal(first, denoise(*arguments))
    assert not torch.equal(first, plain)  # so the cache was used


def test_bfloat16_stays_near_float32() -> None:
    torch.manual_seed(0)
    transformer = tiny_transformer().eval()
    arguments = conditions(), initial_noise(0, SHAPE), schedule(2, 5.0), GUIDED
    exact = denoise(transformer, *arguments)
    rounded = denoise(transformer.to(torch.bfloat16), *arguments)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() / exact.norm() < 0.05

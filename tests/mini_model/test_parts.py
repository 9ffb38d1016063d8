"""Training on part of an item's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mini_model.parts import PartPositions, choose_part
from mini_model.posed import Examples, merged, predict

MODEL = Path("posegen/mini/model")
ROW, COLUMN = 4, 3
"""Of the token that is the person's."""


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_part_of_all_tokens_is_computed_as_the_whole(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VIDEO_SHARE", "REFERENCE_SHARE"):
        monkeypatch.setattr(f"mini_model.parts.{name}", 1.0)
    network: Any = merged(MODEL, MODEL / "adapters" / "base")
    positions = network.rope = PartPositions(network.rope)
    z, (frames, height, width) = network.config.out_channels, (3, 4, 6)
    examples = Examples(
        *(
            torch.randn(2, *shape, generator=generator)
            for shape in (
                (z, frames, height, width),
                (4 + z, frames, height, width),
                (z, 1, height, width),
                (5, network.config.text_dim),
                (1, frames, height, width),
            )
        )
    )
    pictures = np.zeros((2, 9, 8 * height, 8 * width, 4), np.uint8)
    part = choose_part(pictures, pictures[:, 0, ..., :3], generator)
    with torch.no_grad():
        whole = predict(network, examples.latents, 0.7, examples)
        with positions.computing(part, examples.latents.shape):
            some = examples.part(part)
            made = predict(network, some.latents, 0.7, some)
    torch.testing.assert_close(made.flatten(2), whole.flatten(2), rtol=1e-3, atol=1e-3)
    assert torch.equal(
        predict(network, examples.latents, 0.7, examples), whole
    )  # positions are the whole's again


def test_a_part_has_the_person_and_what_it_hides(generator: torch.Generator) -> None:
    """The person stands in one token of the reference and in the one right of it in the last frames."""
    frames = np.full((1, 9, 96, 64, 4), 100, np.uint8)
    frames[..., 3] = 0
    references = frames[:, 0, ..., :3].copy()
    place = slice(8 * ROW + 2, 8 * ROW + 6)
    references[:, place, 8 * COLUMN + 2 : 8 * COLUMN + 6] = 200
    frames[:, 5:, place, 8 * COLUMN + 10 : 8 * COLUMN + 14] = (200, 200, 200, 255)
    part = choose_part(frames, references, generator)
    here = 8 * ROW + COLUMN
    assert here in part.reference[0].tolist()
    # What the reference's person hides is wanted in all three latents, the person in the last one
    assert {here, 96 + here, 2 * 96 + here, 2 * 96 + here + 1} <= set(part.video[0].tolist())
    assert part.video.shape == (1, 115)
    assert part.reference.shape == (1, 48)
    for tokens in (part.video, part.reference):
        assert torch.equal(tokens[0], tokens[0].unique())

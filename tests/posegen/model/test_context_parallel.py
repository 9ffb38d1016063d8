"""Two processes make what one makes, with and without the shared background, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, FirstBlockCacheConfig

from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.sharing import (
    AnchorReader,
    AnchorRecorder,
    Foreground,
    Form,
    GivenForeground,
    SharedRange,
    SharedRecord,
    SubjectForeground,
)
from testkit.reference_model import GRID, VIDEO_TOKENS, relative_error, small_inputs, small_transformer

pytestmark = pytest.mark.slow

PROCESSES = 2
FOREGROUNDS: dict[str, Callable[[], Foreground]] = {
    "given": lambda: GivenForeground(torch.arange(VIDEO_TOKENS)[None] % 3 == 0),
    "subject": lambda: SubjectForeground([2], GRID, blocks=2),
}
FORMS: tuple[Form, ...] = ("key_value", "input")


def compute(model: PoseGenTransformer3DModel) -> dict[str, torch.Tensor]:
    """What two segments make plainly and sharing, the bytes of their records, and gradients."""
    first, second = small_inputs(model, batch=2), small_inputs(model, batch=2, seed=1)
    shared = SharedRange(range(1), range(1, 3))
    made = {}
    with torch.no_grad():
        made["plain"] = model(**first).sample
        for form in FORMS:
            for name, foreground in FOREGROUNDS.items():
                record = SharedRecord()
                recorder = AnchorRecorder(shared, foreground(), record, form)
                reader = AnchorReader(shared, foreground(), record)
                made[f"anchor, {form}, {name}"] = model(**first, sharing=recorder.at(0, "guided")).sample
                made[f"reader, {form}, {name}"] = model(**second, sharing=reader.at(0, "guided")).sample
                made[f"bytes, {form}, {name}"] = torch.tensor([record.nbytes])
    model(**first).sample.square().mean().backward()
    return made | {f"gradient, {name}": value.grad for name, value in model.named_parameters()}


def refusals(model: PoseGenTransformer3DModel) -> list[str]:
    """What is said of a video of 9 tokens, and of First Block Cache."""
    inputs = small_inputs(model)
    odd = {
        name: inputs[name][:, :, :1, :6] for name in ("hidden_states", "hand_latents", "reference_latents")
    }
    said = []
    for changed in (odd, {}):
        try:
            model(**inputs | changed)
        except ValueError as error:
            said.append(str(error))
        if changed:
            model.enable_cache(FirstBlockCacheConfig())
    return said


def process(rank: int, folder: str) -> None:
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=PROCESSES)
    model = small_transformer()
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=PROCESSES))
    torch.save((compute(model), refusals(model)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def single() -> dict[str, torch.Tensor]:
    return compute(small_transformer())


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, torch.Tensor], list[str]]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(process, (str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


def test_each_process_has_the_output_of_one(single, parts):
    outputs = [name for name in single if name.startswith(("plain", "anchor", "reader"))]
    assert len(outputs) == 1 + 2 * len(FORMS) * len(FOREGROUNDS)
    for made, _ in parts:
        for name in outputs:
            assert relative_error(made[name], single[name]) < 1e-6, name


def test_each_process_keeps_its_part_of_the_record(single, parts):
    masks = (
        2 * 2 * VIDEO_TOKENS
    )  # of 2 blocks and a batch of 2; for given masks, which are of batch 1, half of that
    for name in (name for name in single if name.startswith("bytes")):
        whole = single[name].item() - (masks if name.endswith("subject") else masks // 2)
        for made, _ in parts:
            assert made[name].item() - (single[name].item() - whole) == whole // PROCESSES


def test_gradients_of_the_processes_add_up(single, parts):
    names = [name for name in single if name.startswith("gradient")]
    assert names
    for name in names:
        total = torch.stack([made[name] for made, _ in parts]).sum(0)
        torch.testing.assert_close(total, single[name], msg=name)


def test_what_cannot_be_parted_is_said(parts):
    for _, (odd, cache) in parts:
        assert "9 video and 9 reference tokens cannot be parted equally among 2 processes" in odd
        assert "First Block Cache" in cache and "use one of the two" in cache


@pytest.mark.parametrize(
    "config",
    [
        ContextParallelConfig(ring_degree=2),
        ContextParallelConfig(ulysses_degree=3),
        ContextParallelConfig(ulysses_degree=2, ulysses_anything=True),
    ],
    ids=["ring", "heads that three do not divide", "unequal parts"],
)
def test_what_the_plan_does_not_cover_is_refused(config: ContextParallelConfig):
    with pytest.raises(ValueError, match="an n that divides the 4 attention heads"):
        small_transformer().enable_parallelism(config=config)

"""Several processes take the same steps along their mean gradient."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import distributed, nn

from mini_model.loop import Loop, LoopConfig, own, processes

PROCESSES = 2


def weights_after(folder: Path) -> torch.Tensor:
    """Of a line fitted to its batches' numbers."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    config = LoopConfig(folder, steps=5, batch=1, validate_every=2)

    def loss(batch: torch.Tensor, _: torch.Generator) -> torch.Tensor:
        return (model(batch) - 3 * batch).square().mean()

    def read(generator: torch.Generator) -> torch.Tensor:
        return own(torch.rand(processes(), 1, generator=generator))

    Loop("line", model, read, loss, config).run(dict, lambda: None)
    return model.weight.detach()


def train(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    torch.save(weights_after(folder), folder / f"{rank}.weights")
    distributed.destroy_process_group()


def test_processes_agree(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train, (tmp_path,), PROCESSES)
    weights = [torch.load(tmp_path / f"{rank}.weights", weights_only=True) for rank in range(PROCESSES)]
    assert torch.equal(*weights)
    assert weights[0] != 1
    steps = [json.loads(line)["step"] for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 5]  # told by one of them

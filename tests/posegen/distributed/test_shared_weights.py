"""Processes load a module without copying its weights: from the files that hold them, or from one in memory."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from posegen.distributed.shared_weights import load_shared, share
from posegen.model.scaled_linear import ScaledLinear
from posegen.pipeline import PoseGenPipeline
from testkit.tiny_model import save_tiny_model

PATIENCE_S = 120.0


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(
        theirs[name].dtype == tensor.dtype and torch.equal(theirs[name], tensor)
        for name, tensor in ours.items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_transformer_with_its_adapters_is_loaded_as_it_is(tmp_path: Path, dtype: torch.dtype) -> None:
    transformer = PoseGenPipeline.from_pretrained(save_tiny_model(tmp_path), dtype=dtype).transformer
    shared = share(transformer)
    loaded = load_shared(shared.content)
    shared.close()
    assert equal(transformer, loaded)
    assert loaded.active_adapters() == transformer.active_adapters()
    assert (shared.file is None) == (dtype == torch.float32)  # the files are float32: nothing is written


def mapped_linear(path: Path) -> nn.Linear:
    """A linear layer whose weight is mapped from a file."""
    save_file({"weight": torch.randn(8, 8)}, path)
    linear = nn.Linear(8, 8, bias=False)
    linear.load_state_dict(load_file(path), assign=True)
    return linear


def test_a_weight_that_was_written_to_is_not_taken_from_its_file(tmp_path: Path) -> None:
    linear = mapped_linear(tmp_path / "weight.safetensors")
    assert share(linear).file is None
    linear.weight.data += 1
    shared = share(linear)
    assert shared.file is not None
    assert equal(load_shared(shared.content), linear)


def test_what_a_process_writes_is_its_own() -> None:
    linear = nn.Linear(8, 8)
    shared = share(linear)
    others = [load_shared(shared.content) for _ in range(2)]
    others[0].weight.data.zero_()
    assert equal(linear, others[1])
    assert linear.weight.any()


def test_quantised_and_tied_weights_stay_so() -> None:
    quantised = ScaledLinear(torch.randn(4, 8).to(torch.float8_e4m3fn), torch.ones(4, 1), bias=False)
    module = nn.ModuleList([quantised, nn.Linear(8, 8), nn.Linear(8, 8)])
    module[2].weight = module[1].weight
    shared = share(module)
    loaded = load_shared(shared.content)
    assert equal(module, loaded)
    assert loaded[1].weight is loaded[2].weight
    assert torch.equal(quantised(torch.ones(1, 8)), loaded[0](torch.ones(1, 8)))


def report_memory(content: bytes, told: Connection) -> None:
    """Reads all weights of a shared module and tells how much of them is this process's alone, in bytes."""
    before = psutil.Process().memory_full_info().uss
    module = load_shared(content)
    told.send(float(sum(weight.detach().sum() for weight in module.parameters())))
    told.recv()  # all have read theirs
    told.send(psutil.Process().memory_full_info().uss - before)
    told.recv()


@pytest.mark.parametrize("from_file", [True, False])
def test_processes_hold_one_copy(tmp_path: Path, from_file: bool) -> None:
    size, context = 64_000_000, multiprocessing.get_context("spawn")
    module = nn.Linear(4000, 4000, bias=False)
    if from_file:
        save_file({"weight": module.weight.data}, tmp_path / "large.safetensors")
        module.load_state_dict(load_file(tmp_path / "large.safetensors"), assign=True)
    shared = share(module)
    pipes = [context.Pipe() for _ in range(2)]
    processes = [
        context.Process(target=report_memory, args=(shared.content, theirs), daemon=True)
        for _, theirs in pipes
    ]
    for process in processes:
        process.start()
    for ours, _ in pipes:
        assert ours.poll(PATIENCE_S)
        assert ours.recv() == pytest.approx(float(module.weight.detach().sum()), rel=1e-3, abs=1.0)
    for ours, _ in pipes:
        ours.send(None)
        assert ours.recv() < size / 4
    for process in processes:
        process.kill()

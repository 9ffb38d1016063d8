"""The mini model's optimiser takes the steps of PyTorch's own Muon."""

from __future__ import annotations

from copy import deepcopy

import torch

from mini_model.muon import Muon

SHAPES = [(24, 24), (24, 48), (48, 24), (24, 24)]


def test_steps_are_those_of_pytorch_up_to_its_rounding() -> None:
    ours, theirs = ([torch.nn.Parameter(torch.eye(*shape)) for shape in SHAPES] for _ in range(2))
    muon = Muon(ours, weight_decay=0.01)
    reference = torch.optim.Muon(theirs, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        before = [matrix.detach().clone() for matrix in ours]
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
            other.data.copy_(one.data)
        muon.step()
        reference.step()
        for one, other, start in zip(ours, theirs, before, strict=True):
            assert (one - other).norm() < 0.05 * (one - start).norm()  # bfloat16 in five iterations


def test_a_state_gone_on_with_takes_the_same_step() -> None:
    matrix = torch.nn.Parameter(torch.eye(8))
    muon = Muon([matrix], weight_decay=0.0)
    matrix.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    muon.step()
    other = torch.nn.Parameter(matrix.detach().clone())
    resumed = Muon([other], weight_decay=0.0)
    resumed.load_state_dict(deepcopy(muon.state_dict()))
    other.grad = matrix.grad.clone()
    muon.step()
    resumed.step()
    assert torch.equal(matrix, other)

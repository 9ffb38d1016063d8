"""Memory of the host for a GPU's copies; there is no GPU here, so that it is pinned is not tested."""

from __future__ import annotations

import pytest
import torch

from posegen.common.pinned import host_tensor


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.bool])
@pytest.mark.parametrize("shape", [(2, 3), ()])
def test_memory_of_the_host_is_of_any_shape_and_dtype(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    like = torch.ones(shape, dtype=dtype)
    assert torch.equal(host_tensor(like).copy_(like), like)

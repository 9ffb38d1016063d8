"""Memory of the host that a GPU copies from and to by itself."""

from __future__ import annotations

import weakref
from math import prod

import numpy as np
import torch


def host_tensor(like: torch.Tensor) -> torch.Tensor:
    """An uninitialised tensor on the host, of another's shape and dtype, in pinned memory where there is CUDA.

    torch's own pinned tensors are rounded up to a power of two, which for a record is a third more. Memory that cannot
    be pinned is used as it is: its copies are correct, but not beside the computation.
    """
    shape, dtype = tuple(like.shape), like.dtype
    memory = np.empty(prod(shape) * dtype.itemsize, np.uint8)
    if torch.cuda.is_available():
        cuda, address = torch.cuda.cudart(), memory.ctypes.data
        if int(cuda.cudaHostRegister(address, memory.nbytes, 0)) == 0:
            weakref.finalize(memory, cuda.cudaHostUnregister, address).atexit = False
    return torch.from_numpy(memory).view(dtype).view(shape)

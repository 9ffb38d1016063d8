"""One copy of a module's weights on the host for all processes of a machine.

The processes map files. Weights that lie in memory-mapped safetensors stay there; all others (converted to another
dtype, expanded, merged with an adapter) are written once to a file in shared memory, which the process that made them
maps in place of its own. The mappings are private: what a process writes to its weights later is its own.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch
from torch import nn

ALIGNMENT = 64
"""Bytes that a storage in the file begins at a multiple of, as torch's own do."""


class Place(NamedTuple):
    """Where a storage lies: a file, and bytes in it."""

    path: str
    start: int
    size: int


@dataclass(frozen=True)
class SharedModule:
    """A module that other processes of this machine can load.

    content: the module pickled, without its weights. file: of those weights that no other file held, in memory.
    """

    content: bytes
    file: IO[bytes] | None

    def close(self) -> None:
        """Lets go of the weights; a process that has loaded the module keeps them."""
        if self.file is not None:
            self.file.close()


def share(module: nn.Module) -> SharedModule:
    """Makes a module on the CPU loadable by other processes; all its weights become mapped ones."""
    # GGUF's weights are of a class that has its own idea of each operation.
    with torch._C.DisableTorchFunctionSubclass():
        tensors: dict[int, list[torch.Tensor]] = {}
        for tensor in _tensors(module):
            tensors.setdefault(_address(tensor), []).append(tensor)
        places, file = _mapped(tensors), None
        if others := [tensors[address] for address in tensors if address not in places]:
            file, written = _move_to_file(others)
            places |= written
        content = io.BytesIO()
        _Pickler(content, places).dump(module)
    return SharedModule(content.getvalue(), file)


def load_shared(content: bytes) -> Any:
    """The module that was shared, on the CPU, its weights mapped."""
    return _Unpickler(content).load()


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """Its parameters and buffers that have memory on the CPU."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and _address(tensor):
            yield tensor


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _map(path: str) -> torch.UntypedStorage:
    """All of a file, privately mapped."""
    return cast(torch.UntypedStorage, torch.UntypedStorage.from_file(path, False, Path(path).stat().st_size))


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _mapped(addresses: Mapping[int, Sequence[torch.Tensor]]) -> dict[int, Place]:
    """The places of those storages that are mapped from files and were never written to, by their addresses.

    addresses: tensors of each storage, by its address.
    """
    mappings, files = _file_mappings(), dict[str, torch.Tensor]()
    places = {}
    for address, (tensor, *_) in addresses.items():
        storage = tensor.untyped_storage()
        for first, last, offset, path in mappings:
            place = Place(path, address - first + offset, storage.nbytes())
            if first <= address and address + place.size <= last:
                if path not in files:
                    files[path] = _bytes(_map(path))
                if torch.equal(files[path][place.start : place.start + place.size], _bytes(storage)):
                    places[address] = place
    return places


def _file_mappings() -> list[tuple[int, int, int, str]]:
    """First and last address, offset in the file, and path of the files that this process maps; none without /proc."""
    maps = Path("/proc/self/maps")
    found = []
    for line in maps.read_text().splitlines() if maps.is_file() else []:
        addresses, _, offset, _, _, *path = line.split(maxsplit=5)
        if path and Path(path[0]).is_file():
            first, last = (int(address, 16) for address in addresses.split("-"))
            found.append((first, last, int(offset, 16), path[0]))
    return found


def _move_to_file(tensors: Sequence[Sequence[torch.Tensor]]) -> tuple[IO[bytes], dict[int, Place]]:
    """Moves storages to a file, one at a time; returns it and their places by their new addresses.

    tensors: those of each storage.
    """
    file, path = _shared_file()
    sizes = [_padded(of_one[0].untyped_storage().nbytes()) for of_one in tensors]
    file.truncate(sum(sizes))
    mapped = _map(path)
    places = {}
    for of_one, start in zip(tensors, accumulate(sizes, initial=0), strict=False):
        storage = of_one[0].untyped_storage()
        file.seek(start)
        file.write(_bytes(storage).numpy().data)
        file.flush()
        own = mapped[start : start + storage.nbytes()]
        places[own.data_ptr()] = Place(path, start, storage.nbytes())
        for tensor in of_one:
            like = tensor.data
            tensor.data = like.new_empty(0).set_(own, like.storage_offset(), like.shape, like.stride())
    return file, places


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _shared_file() -> tuple[IO[bytes], str]:
    """An empty file in memory, and the path by which any process may open it until it is closed."""
    if sys.platform != "linux":
        temporary = tempfile.NamedTemporaryFile(prefix="posegen-weights-")  # noqa: SIM115 - the caller closes it
        return temporary, temporary.name
    descriptor = os.memfd_create(
        "posegen-weights"
    )  # leaves nothing behind, and no limit of /dev/shm holds for it
    return os.fdopen(descriptor, "wb"), f"/proc/{os.getpid()}/fd/{descriptor}"


class _Pickler(pickle.Pickler):
    """Names the places of storages instead of their bytes."""

    def __init__(self, file: io.BytesIO, places: dict[int, Place]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._places = places

    def persistent_id(self, part: object) -> tuple[Place, torch.dtype] | None:
        if isinstance(part, torch.storage.TypedStorage):
            place = self._places.get(part._untyped_storage.data_ptr())
            return place and (place, part.dtype)
        return None

    def reducer_override(self, part: object) -> Any:
        if isinstance(part, nn.Parameter) and type(part) is not nn.Parameter:  # torch forgets the class
            return _parameter, (type(part), part.detach(), part.requires_grad, vars(part))
        return NotImplemented


def _parameter(
    kind: type[nn.Parameter], data: torch.Tensor, requires_grad: bool, attributes: dict[str, Any]
) -> nn.Parameter:
    """A parameter of a class of its own, such as GGUF's."""
    made = torch.Tensor._make_subclass(kind, data, requires_grad)  # type: ignore[attr-defined]
    vars(made).update(attributes)
    return made


class _Unpickler(pickle.Unpickler):
    """Maps each file once, and takes storages from it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._files: dict[str, torch.UntypedStorage] = {}

    def persistent_load(self, name: tuple[Place, torch.dtype]) -> Any:
        place, dtype = name
        if place.path not in self._files:
            self._files[place.path] = _map(place.path)
        storage = self._files[place.path][place.start : place.start + place.size]
        return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)

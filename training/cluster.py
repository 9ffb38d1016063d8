"""The Ray cluster that trainings, and what draws datasets for them, run on; how a training's workers find each other.

Gloo and NCCL choose a network interface by themselves. Gloo asks what address the machine's hostname has, and where the
name does not resolve it takes 127.0.0.1, at which no other machine answers ("connectFullMesh failed"); NCCL may choose
one that leads nowhere, such as Docker's. Ray knows at which address each node is reached, so its interface is taken.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import psutil
import ray
from ray.data import DataContext
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""The variables that name it (PyTorch's documentation of torch.distributed); what is set already is left."""


def start_ray() -> None:
    """Joins the cluster that RAY_ADDRESS names or this machine runs, else starts one for the run.

    Each program says itself how far it is, so Ray Data's own reports, which would drown that, are off.
    """
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING)
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def interface_of(address: str, interfaces: Mapping[str, list[str]]) -> str | None:
    """The network interface that has an address; None where none has it, as behind address translation.

    interfaces: the addresses of each, by name.
    """
    return next((name for name, addresses in interfaces.items() if address in addresses), None)


def use_interface_of_node() -> None:
    """Tells Gloo and NCCL, in this process, by which interface its node is reached."""
    found = {name: [entry.address for entry in entries] for name, entries in psutil.net_if_addrs().items()}
    if name := interface_of(ray.util.get_node_ip_address(), found):
        for variable in INTERFACES:
            exact = f"={name}" if variable.startswith("NCCL") else name  # NCCL takes a bare name for a prefix
            os.environ.setdefault(variable, exact)


class _ByNodesAddress(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(use_interface_of_node)
        super().on_start(worker_group, backend_config)


class NodeTorchConfig(TorchConfig):
    """Ray's connection of the workers, each by the interface of its node's address."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _ByNodesAddress

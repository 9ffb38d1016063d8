"""How the workers of a training find each other: by the network interface of their node's address."""

from __future__ import annotations

import os
from typing import Any

import psutil
import pytest
import ray

from training.cluster import INTERFACES, interface_of, use_interface_of_node
from training.config import CONFIGS
from training.train import trainer

FOUND = {"lo": ["127.0.0.1", "::1"], "docker0": ["172.17.0.1"], "ens5": ["10.0.0.7", "fe80::1"]}


def test_the_interface_is_that_of_the_address() -> None:
    assert interface_of("10.0.0.7", FOUND) == "ens5"
    assert interface_of("127.0.0.1", FOUND) == "lo"


def test_an_address_that_no_interface_has_names_none() -> None:
    assert interface_of("203.0.113.5", FOUND) is None


def test_gloo_and_nccl_are_told_where_nobody_told_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in INTERFACES:
        monkeypatch.setenv(variable, "")  # so that what is set here is undone
        monkeypatch.delenv(variable)
    use_interface_of_node()
    gloo, nccl = (os.environ[variable] for variable in INTERFACES)
    addresses = [entry.address for entry in psutil.net_if_addrs()[gloo]]
    assert ray.util.get_node_ip_address() in addresses and nccl == f"={gloo}"
    monkeypatch.setenv(INTERFACES[0], "ib0")
    use_interface_of_node()
    assert os.environ[INTERFACES[0]] == "ib0"


def test_a_training_connects_its_workers_so() -> None:
    _, config = CONFIGS["mini_cpu"]
    found: Any = trainer(config)
    backend = found.backend_config.backend_cls
    assert backend.__name__ == "_ByNodesAddress"

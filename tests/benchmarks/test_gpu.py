"""The benchmark for GPUs, at a small size on this machine."""

from __future__ import annotations

import torch

from benchmarks.gpu import measure


def test_every_figure_is_there_at_a_small_size() -> None:
    report = measure(torch.device("cpu"), tiny=True, rounds=1)
    found = report["tiny"]
    assert {"bf16 plain", "bf16 shared"} <= found["block"].keys()
    assert all(figures["seconds"] > 0 for figures in found["block"].values())
    assert found["step"].keys() == {"plain", "device", "host"}
    record = found["step"]["device"]["estimated_bytes"] - found["step"]["plain"]["estimated_bytes"]
    assert (
        record > 0 and found["step"]["host"]["estimated_bytes"] < found["step"]["device"]["estimated_bytes"]
    )
    assert found["vae"].keys() == {"encode", "decode"}

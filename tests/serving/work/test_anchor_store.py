"""Records in Ray's stores: what finds no room in a node's memory lies on its disk and is read from there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from testkit import ROOT

STORE_BYTES, ENTRY_BYTES, ENTRIES = 80 << 20, 16 << 20, 12

WRITE_AND_READ = f"""
import ray, torch
from posegen.sharing import Position, SharedEntry
from serving.work.anchor_store import RayRecords
from serving.work.records import RecordId

ray.init(num_cpus=1, object_store_memory={STORE_BYTES}, include_dashboard=False, log_to_driver=False)
records, record = RayRecords(patience=120), RecordId("job", 1)
foreground = torch.zeros(1, 4, dtype=torch.bool)
for block in range({ENTRIES}):
    whole = torch.full((1, 4, {ENTRY_BYTES} // 8), block, dtype=torch.bfloat16)
    records.put(record, Position(0, block, "guided"), SharedEntry((whole,), foreground))
for block in range({ENTRIES}):
    found = records.get(records.here(), record, Position(0, block, "guided"))
    assert found.tensors[0].dtype is torch.bfloat16 and (found.tensors[0] == block).all()
    del found
"""


@pytest.mark.slow
def test_a_record_larger_than_the_nodes_memory_is_read_from_its_disk() -> None:
    """In a process of its own, as the store is smaller than that of the tests' cluster."""
    assert ENTRY_BYTES * ENTRIES > 2 * STORE_BYTES
    subprocess.run([sys.executable, "-c", WRITE_AND_READ], cwd=ROOT, check=True, timeout=300)

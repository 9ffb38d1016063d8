"""Clusters whose head computes nothing, and whose nodes come while the job waits or runs."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline.config import CurateConfig
from pipeline.curate import attempts, pool_size, start_ray, work
from pipeline.feeds import TASKS
from posegen.common.progress import Progress

pytestmark = pytest.mark.long
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster of a head without CPUs."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    start_ray()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


class Where:
    """Leaves a file that says on which node a task was done, after a while."""

    def __init__(self, config: CurateConfig, attempts: Any) -> None:
        self.folder, self.node = Path(config.output), ray.get_runtime_context().get_node_id()

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        time.sleep(1)
        (self.folder / task["path"]).write_text(self.node)
        return {"path": task["path"], "work": 1.0, "failed": 0, "fault": None}


def test_a_head_without_cpus_waits_for_nodes_and_later_ones_help(cluster: Cluster, tmp_path: Path) -> None:
    config = CurateConfig("in", str(tmp_path))
    assert pool_size(config) == 1
    counting = attempts()
    head = ray.get_runtime_context().get_node_id()
    assert ray.get(counting.begin.remote("key", head)) == 1  # it sits where there are no CPUs
    tasks = pa.Table.from_pylist([{"path": str(n), "key": str(n), "clips": None} for n in range(60)], TASKS)

    # Nodes can only be started from the main thread.
    job = threading.Thread(
        target=work, args=(config, [ray.put(tasks)], Where, (), Progress("test", "tasks", 60))
    )
    job.start()
    time.sleep(3)
    cluster.add_node(num_cpus=1)
    until(lambda: any(tmp_path.iterdir()))
    cluster.add_node(num_cpus=1)
    job.join()
    nodes = [file.read_text() for file in tmp_path.iterdir()]
    assert len(nodes) == 60 and len(set(nodes)) == 2 and head not in nodes


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Waits for a condition, and no longer than that."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.1)

"""The benchmark of a cluster: how a run is compared with the undisturbed one, and the settings of its server."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from ray.serve.schema import ServeDeploySchema

from benchmarks import cluster
from benchmarks.namespaces import CPUS, WORKERS
from serving.config import load_config

CALM = cluster.Run("training", "none", 0, 100.0, [0.5, 0.25], {"head": 0.7})


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an undisturbed run of each kind has left its result."""
    monkeypatch.setattr(cluster, "RESULTS", tmp_path)
    for run in (CALM, dataclasses.replace(CALM, job="curation", found={"kept": 5, "rows": "ab"})):
        (tmp_path / f"{run.job}-none.json").write_text(json.dumps(dataclasses.asdict(run)))
    return tmp_path


def test_losses_are_compared_by_their_largest_difference(results: Path) -> None:
    assert cluster.same(CALM) == "-"
    found = dataclasses.replace(CALM, fault="kill", found=[0.5, 0.25001])
    assert cluster.same(found) == "losses differ by 1.0e-05"
    assert cluster.same(dataclasses.replace(found, found=[0.5])) == "DIFFERS", "a run that ended early"


def test_rows_and_videos_must_be_the_same(results: Path) -> None:
    found = dataclasses.replace(CALM, job="curation", fault="kill", found={"kept": 5, "rows": "ab"})
    assert cluster.same(found) == "the same" and "the same" in cluster.line(found)
    assert cluster.same(dataclasses.replace(found, found={"kept": 5, "rows": "cd"})) == "DIFFERS"


def test_the_server_gets_a_generator_a_machine(tmp_path: Path) -> None:
    settings = cluster.server_settings(tmp_path, "postgresql+psycopg://postgres@10.77.0.9/postgres")
    schema = ServeDeploySchema.model_validate(settings)
    config = load_config(schema.applications[0].args, {})
    generators = config.generators
    assert generators.min_workers == generators.max_workers == len(WORKERS)
    assert all(generators.cpus <= CPUS[name] < 2 * generators.cpus for name in WORKERS)
    others = (config.ingress, config.preparers, config.stitchers)
    needed = sum(part.max_workers * part.cpus for part in (generators, *others))
    assert needed <= sum(CPUS.values())

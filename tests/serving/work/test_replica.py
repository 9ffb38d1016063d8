"""Replicas of the server without a cluster: what makes Serve replace one, and what is not served at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serving.app import ReplicaSettings, RoleReplica, app
from serving.config import BUNDLED, ConfigError, ServingConfig
from serving.model_info import read_model_info
from serving.state.rows import Claim, Role
from serving.work.loop import Beat
from testkit.jobs import queued


def test_a_step_that_hangs_makes_its_replica_unhealthy_and_is_done_by_another(tmp_path: Path) -> None:
    config = ServingConfig(f"sqlite:///{tmp_path}/serving.db", str(tmp_path), lease=0.5, poll=0.05, drain=60)
    settings = ReplicaSettings(config, read_model_info(BUNDLED, 4))
    database, go, hung = settings.database(), threading.Event(), threading.Event()

    def hang(claim: Claim, beat: Beat) -> None:
        hung.set()
        assert go.wait(timeout=300)

    job = queued(database)
    replica = RoleReplica(Role.PREPARE, settings, hang, database)
    assert hung.wait(timeout=300)
    go.wait(timeout=4 * config.lease)
    with pytest.raises(RuntimeError, match="no sign of life"):
        replica.check_health()
    replica.__del__()  # does not wait for the thread that hangs, however long it may drain
    again = database.queue.claim(Role.PREPARE, "other", config.lease)
    go.set()
    assert again is not None and again.job.id == job.id


def test_callers_behind_haproxy_must_have_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    arguments = {"artifacts": str(tmp_path), "database": f"sqlite:///{tmp_path}/serving.db"}
    with pytest.raises(ConfigError, match="set up tokens, or declare the server open"):
        app(arguments)
    assert app(arguments | {"api": {"open": True}})

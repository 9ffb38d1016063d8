"""The server on Ray Serve: `serve run serving.app:app`, `serve deploy cluster/serve.yaml`.

Four deployments that know each other only through the database, so each can be copied, killed and moved
by itself; there is no scheduler. Workers are threads of their replicas: a thread that died or hangs makes its replica
unhealthy, and a replica that is stopped hands its task back. Each role has as many replicas as its queue needs. A
replica imports only what its role needs.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from serving.api.routes import create_app
from serving.api.settings import Model
from serving.config import ConfigError, Replicas, ServingConfig, load_config
from serving.loras import read_loras
from serving.model_info import ModelInfo, read_model_info
from serving.state.artifacts import Artifacts
from serving.state.database import Database
from serving.state.rows import Role
from serving.work.loop import Work, Worker
from serving.work.metrics import measured

HEALTH_S, HEALTH_TIMEOUT_S = 5.0, 60.0
REQUESTS = 1000
"""Requests at once of an ingress, most of which wait: polls, streams of events, downloads."""
LOOK_BACK_S = 30.0
"""Seconds over which what Serve scales by is averaged, at most."""
SWEEP_S = 10.0
"""Seconds between looks for records that nobody needs any more."""
ITEMSIZE = {"float32": 4, "bfloat16": 2}  # bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReplicaSettings:
    """What every replica is given."""

    config: ServingConfig
    model: ModelInfo

    def database(self) -> Database:
        """The database, opened in this process."""
        return Database(self.config.database, self.config.limits)

    def artifacts(self, database: Database) -> Artifacts:
        """The database's artifacts, opened in this process."""
        return Artifacts(self.config.artifacts, database.id)


class RoleReplica:
    """A replica that works for a role."""

    def __init__(
        self,
        role: Role,
        settings: ReplicaSettings,
        work: Work,
        database: Database,
        between: Callable[[], object] = lambda: None,
        threads: int = 1,
        store: str = "",
    ) -> None:
        config = settings.config
        self._role, self._database, self._drain = role, database, config.drain
        looking = threading.Lock()
        self._workers = [
            Worker(role, database, measured(work), config.lease, config.poll, between, looking, store)
            for _ in range(threads)
        ]
        for worker in self._workers:
            worker.start()

    def check_health(self) -> None:
        """Serve replaces the replica when this raises."""
        for worker in self._workers:
            if trouble := worker.trouble():
                raise RuntimeError(trouble)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve scales by: how many replicas the queue would keep busy."""
        load = self._database.queue.load(self._role)
        return {"wanted": (load.ready + load.running) / len(self._workers)}

    def __del__(self) -> None:
        """Hands the tasks back; Serve calls this before it ends the replica."""
        ends = time.monotonic() + self._drain
        for worker in self._workers:
            worker.ask_to_stop()
        for worker in self._workers:
            if not worker.join(0.0 if worker.trouble() else ends - time.monotonic()):
                log.warning("%s did not end in time; its lease will", worker.name)


class Generator(RoleReplica):
    """Makes segments."""

    def __init__(self, settings: ReplicaSettings) -> None:
        from posegen.loading import Placement
        from posegen.source import ModelSource
        from serving.work.anchor_store import RayRecords
        from serving.work.generate import Generate

        config, database = settings.config, settings.database()
        self._records = RayRecords(config.lease / 3)  # waited for twice between two signs of life
        placement = Placement.here(
            config.device,
            config.dtype,
            config.generators.processes,
            attention=config.attention,
            compile=config.compile,
        )
        loras = tuple((lora.name, lora.file()) for lora in settings.model.loras)
        source = ModelSource(settings.model.folder(), by_name=loras)
        pipeline = placement.load(source, patience=config.lease / 2)
        work = Generate(pipeline, database, settings.artifacts(database), self._records)
        self._group, self._swept = pipeline.group, 0.0
        super().__init__(Role.GENERATE, settings, work, database, self._between, store=self._records.here())

    def _between(self) -> None:
        if self._group:
            self._group.check()  # ends the worker, and so the replica
        if time.monotonic() - self._swept > SWEEP_S:
            self._swept = time.monotonic()
            self._records.sweep(self._database.queue.live_records(self._records.here()))


class Preparer(RoleReplica):
    """Reads uploads and plans jobs."""

    def __init__(self, settings: ReplicaSettings) -> None:
        from serving.uploads.inspection import UploadLimits
        from serving.work.prepare import Networks, Prepare

        config, api, database = settings.config, settings.config.api, settings.database()
        limits = UploadLimits(
            pixels=api.pixels,
            seconds=api.seconds,
            pose_frames=round(api.seconds * api.model.rate),
            memory=config.prepare_bytes,
            time=config.prepare_seconds,
        )
        networks = Networks(
            config.poses,
            config.pose_weights,
            config.hand_normals,
            config.hand_segmentation,
            cuda=config.preparers.gpus > 0,
        )
        work = Prepare(settings.artifacts(database), settings.model, limits, networks)
        work.check()
        super().__init__(Role.PREPARE, settings, work, database)


class VideoStitcher(RoleReplica):
    """Joins segments into videos."""

    def __init__(self, settings: ReplicaSettings) -> None:
        from serving.work.stitch import Stitch

        database = settings.database()
        work = Stitch(database, settings.artifacts(database), settings.model.rate, settings.config.poll)
        super().__init__(Role.STITCH, settings, work, database, threads=settings.config.stitches)


def by_queue(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """An autoscaling policy of Serve: as many replicas as the role's queue keeps busy."""
    told = (context.aggregated_metrics or {}).get("wanted", {})
    wanted = math.ceil(max(told.values(), default=context.target_num_replicas))
    least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return max(least, min(most, wanted)), {}


def options(replicas: Replicas, config: ServingConfig, role: Role | None) -> dict[str, Any]:
    """The options of a role's deployment, scaled by its queue, or of the ingress, scaled by its requests."""
    scaling: dict[str, Any] = {"num_replicas": replicas.min_workers}
    if replicas.max_workers > replicas.min_workers:
        add, remove = config.scaling.add_after, config.scaling.remove_after
        window = max(1.0, min(add, LOOK_BACK_S))
        scaled_by: dict[str, Any] = {"target_ongoing_requests": REQUESTS / 10}
        if role is not None:
            scaled_by = {"policy": AutoscalingPolicy(policy_function=by_queue)}
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=replicas.min_workers,
                max_replicas=replicas.max_workers,
                upscale_delay_s=add,
                downscale_delay_s=remove,
                look_back_period_s=window,
                metrics_interval_s=window / 3,
                **scaled_by,
            )
        }
    return scaling | {
        "ray_actor_options": {"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        "health_check_period_s": HEALTH_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_timeout_s": config.drain + HEALTH_S,
    }


def app(arguments: dict[str, Any]) -> Application:
    """The application, set up by arguments and environment; see `serving.config`."""
    settings = _settings(load_config(arguments, os.environ))
    config = settings.config
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" and not (config.api.tokens or config.api.open):
        raise ConfigError(
            "Behind HAProxy every caller seems to be on this machine; set up tokens, or declare the server open."
        )
    roles = [
        serve.deployment(**options(replicas, config, role))(kind).bind(settings)
        for kind, replicas, role in (
            (Generator, config.generators, Role.GENERATE),
            (Preparer, config.preparers, Role.PREPARE),
            (VideoStitcher, config.stitchers, Role.STITCH),
        )
    ]

    def endpoint() -> FastAPI:
        database = settings.database()
        return create_app(settings.config.api, database, settings.artifacts(database))

    ingress = serve.deployment(
        name="Ingress", max_ongoing_requests=REQUESTS, **options(config.ingress, config, None)
    )
    return ingress(serve.ingress(endpoint)()).bind(*roles)


def _check_sharing(model: ModelInfo, gpus: int) -> None:
    """Raises ConfigError where that number of GPUs cannot share a segment."""
    heads = model.transformer["num_attention_heads"]
    squares = model.size[0] * model.size[1] // model.unit**2
    if heads % gpus or squares % gpus:
        raise ConfigError(
            f"generators: {gpus} GPUs cannot share a segment; the model has {heads} attention heads and its frames "
            f"{squares} squares of {model.unit} pixels, so give a number that divides both."
        )


def _settings(config: ServingConfig) -> ReplicaSettings:
    """The settings completed by what the model's folder says and by where the artifacts are."""
    model = read_model_info(config.model, ITEMSIZE[config.dtype])
    try:
        model = replace(model, loras=read_loras(config.loras, model.transformer))
    except ValueError as error:
        raise ConfigError(f"loras: {error}") from error
    processes = config.generators.processes
    _check_sharing(model, processes)
    served = Model(
        config.api.model.name,
        model.size,
        model.unit,
        model.rate,
        model.steps,
        model.transformer["num_layers"],
        processes,
        model.summary,
        tuple(lora.name for lora in model.loras),
        model.transformer.get("hand_channels") is not None,
    )
    disks = config.api.disks
    if "://" not in config.artifacts:
        Path(config.artifacts).mkdir(parents=True, exist_ok=True)
        disks = (*disks, config.artifacts)
    return ReplicaSettings(replace(config, api=replace(config.api, model=served, disks=disks)), model)

"""The server's settings: defaults, then a YAML file, then the environment, then arguments; later ones win.

One dataclass is read from any mapping, so the arguments of `serve run`, the `args` of `serve deploy` and a YAML file
use the same names. A setting NAME of the first level may be given as the variable POSEGEN_NAME, with its value as YAML;
POSEGEN_CONFIG names the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import make_url

from posegen.common.storage import absolute
from serving.api.settings import ApiSettings
from serving.state.rows import QueueLimits

BUNDLED = str(Path(__file__).parent.parent / "posegen" / "mini" / "model")
PREFIX = "POSEGEN_"


class ConfigError(ValueError):
    """A setting is wrong; the message says which and why."""


@dataclass(frozen=True)
class Replicas:
    """How many copies of a deployment there are, by the length of its queue, and what each is given.

    cpus: of a machine, shares allowed. gpus: likewise; a generator with several, of one machine, makes each segment on
    all of them.
    """

    min_workers: int = 1
    max_workers: int = 1
    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if self.gpus > 1 and self.gpus % 1:
            raise ValueError(f"{self.gpus:g} GPUs cannot be given; take a share of one, or whole ones")

    @property
    def processes(self) -> int:
        """How many processes of a generator denoise together, one on each of its GPUs."""
        return max(1, int(self.gpus))


@dataclass(frozen=True)
class Scaling:
    """For how many seconds another number of copies must be wanted before copies are added or removed."""

    add_after: float = 30.0
    remove_after: float = 600.0


@dataclass(frozen=True)
class ServingConfig:
    """How a server is set up.

    database: SQLite file (sqlite:///FILE) or PostgreSQL server (postgresql+psycopg://USER:PASSWORD@HOST/NAME).
    artifacts: folder or bucket (s3://.., gs://..) of uploads and results, seen by all machines. model: folder or
    repository of the Hugging Face hub; the bundled mini model by default. loras: the LoRAs that a video may ask for: a
    folder of .safetensors files, called as they are, or names and what each is: a file, a URI, or OWNER/REPOSITORY/FILE
    of the hub. poses, pose_weights: what sees the poses of driving videos and pictures, and, of dwpose and sapiens, the
    folder, file or repository of its weights. hand_normals, hand_segmentation: the same of the networks by which the
    hands of driving videos are seen, as `posegen hands` does, for models that take hands. All but blazepose are on a
    GPU where the preparers have one. device: of the generators, of torch's names. dtype: what they compute in.
    attention: by which kernels, see `posegen.model.backends`. compile: whether they compile the transformer's blocks;
    the first step then takes a minute longer, which the lease must bear. lease: seconds after which a silent worker's
    task goes to another; longer than a denoising step, than encoding a job and than decoding and storing a segment.
    poll: seconds between a worker's looks for tasks. drain: seconds that a stopping worker has to hand back its task.
    stitches: videos that a stitcher joins at once, mostly waiting for segments. prepare_seconds, prepare_bytes: of the
    process that reads uploads. api: of the endpoint; its model is filled in from the model's folder. The rest: copies
    of each deployment.
    """

    database: str = "sqlite:///serving.db"
    artifacts: str = "serving_artifacts"
    model: str = BUNDLED
    loras: str | dict[str, str] = field(default_factory=dict)
    poses: Literal["blazepose", "dwpose", "sapiens"] = "blazepose"
    pose_weights: str | None = None
    hand_normals: str | None = None
    hand_segmentation: str | None = None
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["torch", "cudnn", "flash", "flash3", "sage"] = "torch"
    compile: bool = False
    lease: float = 60.0
    poll: float = 0.5
    drain: float = 60.0
    stitches: int = 8
    prepare_seconds: int = 3600
    prepare_bytes: int = 8 * 2**30
    limits: QueueLimits = field(default_factory=QueueLimits)
    api: ApiSettings = field(default_factory=ApiSettings)
    scaling: Scaling = Scaling()
    ingress: Replicas = Replicas(cpus=0.1)
    generators: Replicas = Replicas()
    preparers: Replicas = Replicas(cpus=0.5)
    stitchers: Replicas = Replicas(cpus=0.4)

    def __post_init__(self) -> None:
        if self.poses == "blazepose" and self.pose_weights is not None:
            raise ValueError("blazepose brings its own weights; leave pose_weights out, or set other poses")
        if (self.hand_normals is None) != (self.hand_segmentation is None):
            raise ValueError("hand_normals and hand_segmentation see hands together; give both or neither")
        if self.preparers.gpus and self.poses == "blazepose" and self.hand_normals is None:
            raise ValueError(
                "preparers: blazepose computes on the CPU; leave gpus out, or set poses to dwpose or sapiens"
            )
        for name in ("pose_weights", "hand_normals", "hand_segmentation"):
            if "://" in (getattr(self, name) or ""):
                raise ValueError(
                    f"{name}: what reads uploads has no access to {getattr(self, name)!r}; give a folder, a file or a "
                    "repository of the Hugging Face hub"
                )


def load_config(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> ServingConfig:
    """The settings from arguments by name and environment variables; raises ConfigError, a sentence."""
    names = [setting.name for setting in dataclasses.fields(ServingConfig)]
    given: dict[str, Any] = {}
    if file := environment.get(f"{PREFIX}CONFIG"):
        given |= _yaml(Path(file).read_text(), file) or {}
    for name in names:
        variable = PREFIX + name.upper()
        if variable in environment:
            given[name] = _yaml(environment[variable], variable)
    given |= {
        name: _yaml(value, name) if isinstance(value, str) else value for name, value in arguments.items()
    }
    if unknown := sorted(set(given) - set(names)):
        raise ConfigError(f"There is no setting {unknown[0]!r}; choose from {', '.join(names)}.")
    try:
        return _absolute(TypeAdapter(ServingConfig).validate_python(given))
    except ValidationError as error:
        first = error.errors()[0]
        where, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{where}: {what}." if where else f"{what}.") from error


def _absolute(config: ServingConfig) -> ServingConfig:
    """The settings with absolute paths, which mean the same in every process."""
    database = make_url(config.database)
    if database.get_backend_name() == "sqlite" and database.database:
        database = database.set(database=str(Path(database.database).resolve()))
    return dataclasses.replace(
        config,
        database=database.render_as_string(hide_password=False),
        artifacts=absolute(config.artifacts),
        loras=_absolute_loras(config.loras),
        pose_weights=config.pose_weights and _absolute_file(config.pose_weights),
        hand_normals=config.hand_normals and _absolute_file(config.hand_normals),
        hand_segmentation=config.hand_segmentation and _absolute_file(config.hand_segmentation),
    )


def _absolute_loras(loras: str | dict[str, str]) -> str | dict[str, str]:
    if isinstance(loras, str):
        return absolute(loras)
    return {name: _absolute_file(where) for name, where in loras.items()}


def _absolute_file(where: str) -> str:
    """What is no file or folder here is a URI or of the hub, and stays as it is."""
    return absolute(where) if Path(where).exists() else where


def _yaml(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is no YAML: {error}") from error

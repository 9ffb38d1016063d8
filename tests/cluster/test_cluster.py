"""What deploys the rooms: the manifests name settings, programs, versions and resources that there are."""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tyro
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.scripts import scripts
from ray.serve.schema import ServeDeploySchema

from pipeline.config import CurateConfig
from serving.app import HEALTH_S, by_queue, options
from serving.config import Replicas, ServingConfig, load_config
from serving.state.rows import Role
from testkit import ROOT
from training.config import TrainConfig
from training.train import parse

FOLDER = ROOT / "cluster"
MANIFESTS = ("rayservice", "curate", "train")
SECRET = {
    "POSEGEN_DATABASE": "postgresql+psycopg://posegen:password@database/posegen",
    "POSEGEN_API": "{tokens: [{name: ann, sha256: " + 32 * "ab" + "}]}",
}


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return found


def ray_cluster(name: str) -> dict[str, Any]:
    spec = manifest(name)["spec"]
    found: dict[str, Any] = spec.get("rayClusterConfig") or spec["rayClusterSpec"]
    return found


def groups(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The head and the groups of workers, with the kind of each."""
    yield "head", ray_cluster(name)["headGroupSpec"]
    yield from (("worker", group) for group in ray_cluster(name)["workerGroupSpecs"])


def container(group: dict[str, Any]) -> dict[str, Any]:
    (found,) = group["template"]["spec"]["containers"]
    return dict(found)


def resources(group: dict[str, Any]) -> tuple[float, float]:
    """CPUs and GPUs that Ray counts on each machine of a group."""
    limits = container(group)["resources"]["limits"]
    cpus = group["rayStartParams"].get("num-cpus", limits["cpu"])
    return float(cpus), float(limits.get("nvidia.com/gpu", 0))


def entrypoint(name: str) -> tuple[Path, list[str]]:
    """The program that a job starts, and its arguments."""
    python, program, *arguments = shlex.split(manifest(name)["spec"]["entrypoint"])
    assert python == "python"
    return ROOT / Path(program).relative_to("/app"), arguments


def served() -> ServingConfig:
    (application,) = manifest("serve")["applications"]
    return load_config(application["args"], SECRET)


def test_serve_takes_the_servers_configuration() -> None:
    schema = ServeDeploySchema.model_validate(manifest("serve"))
    module, name = schema.applications[0].import_path.split(":")
    assert callable(getattr(import_module(module), name))
    assert yaml.safe_load(manifest("rayservice")["spec"]["serveConfigV2"]) == manifest("serve")


def test_the_servers_secrets_come_from_the_environment() -> None:
    config = served()
    assert config.database == SECRET["POSEGEN_DATABASE"]
    assert [token.name for token in config.api.tokens] == ["ann"]
    assert config.ingress.min_workers >= 2 and config.generators.gpus >= 1


def test_the_ingress_is_scaled_by_its_requests_and_workers_by_their_queue() -> None:
    config = served()
    ingress = options(config.ingress, config, None)["autoscaling_config"]
    assert ingress.policy.is_default_policy_function()
    assert ingress.target_ongoing_requests > 10
    workers = options(config.generators, config, Role.GENERATE)["autoscaling_config"]
    assert workers.policy.get_policy().__name__ == by_queue.__name__  # a copy, as Serve pickles it
    for found in (ingress, workers):
        assert (found.upscale_delay_s, found.downscale_delay_s) == (30, 600)
    assert options(Replicas(), config, Role.STITCH)["num_replicas"] == 1


def test_a_machine_leaves_after_its_segment_was_handed_back() -> None:
    for kind, group in groups("rayservice"):
        if kind == "worker":
            (*_, command) = container(group)["lifecycle"]["preStop"]["exec"]["command"]
            (deadline,) = map(int, re.findall(r"--deadline-remaining-seconds (\d+)", command))
            assert group["template"]["spec"]["terminationGracePeriodSeconds"] > deadline
            assert deadline > served().drain + HEALTH_S
            assert container(group)["readinessProbe"]["httpGet"]["path"] == "/healthz"


@pytest.mark.parametrize(
    ("bound", "machines"), [("min_workers", "minReplicas"), ("max_workers", "maxReplicas")]
)
def test_the_server_has_room_for_the_least_and_the_most_of_each_part(bound: str, machines: str) -> None:
    config, (cpu, gpu) = served(), ray_cluster("rayservice")["workerGroupSpecs"]
    others = (config.ingress, config.preparers, config.stitchers)
    needed = sum(getattr(part, bound) * part.cpus for part in others)
    assert needed <= cpu[machines] * resources(cpu)[0]
    generators = config.generators
    assert getattr(generators, bound) * generators.gpus <= gpu[machines] * resources(gpu)[1]
    assert generators.cpus <= resources(gpu)[0]
    assert config.limits.record_bytes <= int(gpu["rayStartParams"]["object-store-memory"])


def test_curation_is_started_as_its_program_wants_it() -> None:
    program, arguments = entrypoint("curate")
    assert program.is_file()
    config = tyro.cli(CurateConfig, args=arguments)
    assert config.input.startswith("s3://") and config.output.startswith("s3://")


def test_a_training_gets_what_it_asks_for() -> None:
    program, arguments = entrypoint("train")
    assert program.is_file()
    config = parse(arguments)
    assert config.output.startswith("/shared/"), "where all machines write checkpoints"
    curated = tyro.cli(CurateConfig, args=entrypoint("curate")[1]).output
    assert config.data.dataset == curated, "what is curated is what is trained on"
    workers = [resources(group) for kind, group in groups("train") if kind == "worker"]
    assert all(group["replicas"] == 1 for kind, group in groups("train") if kind == "worker")
    assert (sum(cpus for cpus, _ in workers), sum(gpus for _, gpus in workers)) == demand(config)
    assert workers[0][1] == config.cluster.max_workers * config.cluster.gpus, "they sit in one machine"


def demand(config: TrainConfig) -> tuple[float, float]:
    """CPUs and GPUs of a training."""
    cluster, data, record = config.cluster, config.data, config.record
    cpus = cluster.max_workers * cluster.cpus + data.encode_workers * data.encode_cpus + record.sample_cpus
    gpus = cluster.max_workers * cluster.gpus + data.encode_workers * data.encode_gpus + record.sample_gpus
    return cpus, math.ceil(gpus)  # encoders share a GPU, which is paid whole


@pytest.mark.parametrize("name", MANIFESTS)
def test_versions_are_those_that_are_tested(name: str) -> None:
    pinned = dict(re.findall(r"(?m)^([\w-]+)==(\S+)", (ROOT / "requirements.txt").read_text()))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ray_cluster(name)["rayVersion"] == pinned["ray"]
    for _, group in groups(name):
        image, tag = container(group)["image"].split(":")
        assert image == project["name"] and tag in (f"{project['version']}-cpu", f"{project['version']}-cuda")
        assert "nvidia.com/gpu" not in container(group)["resources"]["limits"] or tag.endswith("cuda")


def test_the_image_has_this_python_and_every_package() -> None:
    lines = (FOLDER / "Dockerfile").read_text()
    assert f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim" in lines
    copied = [name for line in re.findall(r"(?m)^COPY (.+) \S+$", lines) for name in line.split()]
    assert all((ROOT / name).exists() for name in copied)
    assert set(copied) & {"mini_model", "testkit", "tests", "benchmarks"} == set()
    assert {"posegen", "pipeline", "training", "serving"} <= set(copied)


@pytest.mark.parametrize("name", MANIFESTS)
def test_clusters_ask_for_tokens_and_hold_no_secret(name: str) -> None:
    assert ray_cluster(name)["authOptions"] == {"mode": "token"}
    for _, group in groups(name):
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"]
        assert container(group)["envFrom"] == [{"secretRef": {"name": "posegen"}}]
        plain = {variable["name"] for variable in container(group).get("env", [])}
        assert plain <= {"OMP_NUM_THREADS", "HF_HOME", "RAY_JOB_STOP_WAIT_TIME_S"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_ray_reads_each_machine_as_it_is_meant(name: str) -> None:
    """By the code with which Ray's autoscaler reads a cluster of KubeRay, and its schema (ray-schema.json)."""
    cluster = {"metadata": {"name": name, "namespace": "default"}, "spec": ray_cluster(name)}
    types = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    for kind, group in groups(name):
        found = types["headgroup" if kind == "head" else group["groupName"]]
        assert (found["resources"]["CPU"], found["resources"].get("GPU", 0)) == resources(group)
        if kind == "worker":
            bounds = (group["minReplicas"], group["maxReplicas"])
            assert bounds == (found["min_workers"], found["max_workers"])
            assert bounds[0] <= group["replicas"] <= bounds[1]


@pytest.mark.parametrize("name", MANIFESTS)
def test_ray_knows_the_options_it_is_started_and_drained_with(name: str) -> None:
    for _, group in groups(name):
        assert {f"--{option}" for option in group["rayStartParams"]} <= known_options(scripts.start)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        for command in (
            container(group).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
        ):
            if "ray drain-node" in command:
                _, drain = command.split("ray drain-node")
                assert set(re.findall(r"--[a-z-]+", drain)) <= known_options(scripts.drain_node)


def known_options(command: Any) -> set[str]:
    """The options of one of Ray's commands."""
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_mount_has_its_volume_and_every_variable_is_text(name: str) -> None:
    for _, group in groups(name):
        volumes = {volume["name"] for volume in group["template"]["spec"].get("volumes", [])}
        assert {mount["name"] for mount in container(group).get("volumeMounts", [])} == volumes
        for variable in container(group).get("env", []):
            assert set(variable) == {"name", "value"} and isinstance(variable["value"], str)


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_takes_the_manifest(name: str) -> None:
    """By KubeRay's own definitions where KUBERAY_CRDS names their folder (`ray.io_rayjobs.yaml` and the others)."""
    whole = manifest(name)
    assert whole["apiVersion"] == "ray.io/v1" and whole["kind"] in ("RayService", "RayJob")
    if folder := os.environ.get("KUBERAY_CRDS"):
        file = Path(folder) / f"ray.io_{whole['kind'].lower()}s.yaml"
        definition = yaml.load(file.read_text(), yaml.CSafeLoader)
        (version,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
        jsonschema.validate(whole, strict(version["schema"]["openAPIV3Schema"]))


def strict(schema: Any) -> Any:
    """A schema that refuses fields it does not name, where Kubernetes would drop them silently."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found["additionalProperties"] = False
    return found


def test_a_field_that_a_definition_does_not_name_is_refused() -> None:
    schema = {"type": "object", "properties": {"spec": {"properties": {"replicas": {"type": "integer"}}}}}
    jsonschema.validate({"spec": {"replicas": 1}}, strict(schema))
    for wrong in ({"spec": {"replica": 1}}, {"spec": {"replicas": "1"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, strict(schema))

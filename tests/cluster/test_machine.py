"""One machine: what compose.yaml starts there, the image it starts it of, and plain Kubernetes' files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from ray.scripts import scripts
from ray.serve.schema import ServeDeploySchema

from serving.config import ServingConfig, load_config
from testkit import ROOT

FOLDER = ROOT / "cluster"
ENVIRONMENT = {
    "POSEGEN_DATABASE": "postgresql+psycopg://posegen:password@database/posegen",
    "POSEGEN_API": "{tokens: [{name: ann, sha256: " + 32 * "ab" + "}]}",
}
FIELDS = {
    *("image", "build", "command", "environment", "ports", "volumes", "shm_size", "ulimits"),
    *("stop_grace_period", "restart", "depends_on", "healthcheck", "deploy", "secrets", "network_mode"),
}
"""Of a service, https://github.com/compose-spec/compose-spec/blob/main/05-services.md"""


def compose() -> dict[str, Any]:
    """The file as compose reads it, with a value for each variable that it asks for."""
    text = (FOLDER / "compose.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:\?[^}]*\}", "/given", text))
    return found


def machine() -> ServingConfig:
    (application,) = yaml.safe_load((FOLDER / "machine.yaml").read_text())["applications"]
    return load_config(application["args"], ENVIRONMENT)


def documents(name: str) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all((FOLDER / name).read_text())


def test_compose_takes_the_file() -> None:
    """By the specification's fields, and by its types where the package compose_spec is installed."""
    found = compose()
    assert found.keys() <= {"name", "services", "volumes", "secrets"}
    for service in found["services"].values():
        assert service.keys() <= FIELDS
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in found["volumes"] or source == "/given" or (FOLDER / source).exists(), source
        assert set(service.get("secrets", [])) <= found["secrets"].keys()
    if find_spec("compose_spec"):
        from compose_spec import PyCompose

        PyCompose.from_yaml(yaml.safe_dump(found))
        with pytest.raises(ValueError):
            PyCompose.from_yaml(yaml.safe_dump(found).replace("shm_size", "shm_sice"))


def test_secrets_of_the_machine_stand_in_no_file() -> None:
    text = (FOLDER / "compose.yaml").read_text()
    asked = dict(re.findall(r"(\w+): .*?\$\{(\w+):\?", text))
    assert {
        "POSEGEN_DATABASE",
        "POSEGEN_API",
        "POSTGRES_PASSWORD",
        "GF_SECURITY_ADMIN_PASSWORD",
    } <= asked.keys()


def test_the_machines_server_is_configured_and_has_room() -> None:
    ServeDeploySchema.model_validate(yaml.safe_load((FOLDER / "machine.yaml").read_text()))
    config, server = machine(), compose()["services"]["server"]
    (*_, command) = server["command"]
    start, serve = command.split("&& ray start")[1].split("&& exec ")
    options = re.findall(r"--[a-z-]+", start)
    assert set(options) <= {name for option in scripts.start.params for name in option.opts}
    store = int(re.findall(r"--object-store-memory=(\d+)", start)[0])
    assert config.limits.record_bytes <= store < int(server["shm_size"].removesuffix("gb")) * 2**30
    assert serve.split() == ["serve", "run", "/app/cluster/machine.yaml"]
    assert int(server["stop_grace_period"].removesuffix("m")) * 60 > config.drain
    (device,) = server["deploy"]["resources"]["reservations"]["devices"]
    parts = (config.ingress, config.generators, config.preparers, config.stitchers)
    assert sum(part.gpus * part.max_workers for part in parts) == device["count"]


def test_versions_are_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    images = [service["image"] for service in compose()["services"].values()]
    assert f"{project['name']}:{project['version']}-cuda" in images
    for file in ("redis.yaml",):
        for document in documents(file):
            pods = document["spec"].get("template", {}).get("spec", {}).get("containers", [])
            images += [container["image"] for container in pods]
    assert all(re.search(r":v?\d", image) for image in images)


def test_the_image_holds_one_onnx_runtime_and_no_root() -> None:
    """Its two builds share a folder. So posegen itself asks for neither, and `pip check` is run over what is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    builds = {"onnxruntime", "onnxruntime-gpu"}
    assert not builds & {Requirement(line).name for line in project["dependencies"]}
    assert all(
        len(builds & {Requirement(line).name for line in lines}) < 2
        for lines in project["optional-dependencies"].values()
    )
    text = (FOLDER / "Dockerfile").read_text()
    assert "pip uninstall --yes onnxruntime && pip install" in text and "&& pip check" in text
    assert re.findall(r"(?m)^USER (.+)$", text)[-1] == "1000"
    assert not re.search(r"(?m)^ENV (HTTPS?_PROXY|PIP_)", text), (
        "a proxy or mirror of the build stays out of the image"
    )


def test_only_rays_machines_reach_redis_and_the_policies_meet_their_pods() -> None:
    policies = {document["metadata"]["name"]: document["spec"] for document in documents("network.yaml")}
    (redis,) = [each for each in documents("redis.yaml") if each["kind"] == "StatefulSet"]
    labels = redis["spec"]["template"]["metadata"]["labels"]
    assert policies["posegen-redis"]["podSelector"]["matchLabels"] == labels
    (entry,) = policies["posegen-redis"]["ingress"]
    assert entry["ports"] == [{"port": 6379}]
    assert all("ray.io/" in str(source["podSelector"]["matchLabels"]) for source in entry["from"])
    service = yaml.safe_load((FOLDER / "rayservice.yaml").read_text())
    options = service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == f"{redis['metadata']['name']}:6379"
    (variable,) = redis["spec"]["template"]["spec"]["containers"][0]["env"]
    assert options["redisPassword"]["valueFrom"] == variable["valueFrom"]
    opened = {port["port"] for entry in policies["posegen-ray"]["ingress"] for port in entry.get("ports", [])}
    assert opened == {8000, 8265, 8080}


@pytest.mark.parametrize("name", ["redis.yaml", "network.yaml"])
def test_kubernetes_takes_the_file(name: str) -> None:
    """By its own definitions, unknown fields refused, where the package kubernetes_validate is installed."""
    for document in documents(name):
        assert {"apiVersion", "kind", "metadata", "spec"} == document.keys()
        if find_spec("kubernetes_validate"):
            from kubernetes_validate import validate

            validate(document, "1.32", strict=True)

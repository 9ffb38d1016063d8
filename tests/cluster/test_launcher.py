"""The files of Ray's cluster launcher: Ray takes them, and EC2's own description of its call; jobs have room there."""

from __future__ import annotations

import os
import re
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts import scripts

from testkit import ROOT
from training.config import CONFIGS

FOLDER = ROOT / "cluster"
CLOUDS = ("aws", "gcp")


def launcher(cloud: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{cloud}.yaml").read_text())
    return found


def machines(cloud: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = launcher(cloud)["available_node_types"]
    return found


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_takes_the_file(cloud: str) -> None:
    """By the schema and the checks of `ray up`, with its defaults filled in."""
    validate_config(prepare_config(launcher(cloud)))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_refuses_a_field_it_does_not_know(cloud: str) -> None:
    for wrong in ({"max_worker": 2}, {"docker": launcher(cloud)["docker"] | {"images": "a"}}):
        with pytest.raises(jsonschema.ValidationError):
            validate_config(prepare_config(launcher(cloud) | wrong))


def test_ec2_takes_each_machine() -> None:
    """By EC2's description of its call RunInstances, as boto3 checks it; what Ray adds is not in the file."""
    shape = (
        botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    )
    for machine in machines("aws").values():
        asked = machine["node_config"] | {"MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(asked, shape).has_errors()
        assert ParamValidator().validate(asked | {"InstanceKind": "m7i"}, shape).has_errors()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_head_stays_and_coordinates_and_workers_are_spot_machines(cloud: str) -> None:
    config = launcher(cloud)
    for name, machine in machines(cloud).items():
        market = machine["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        market = market or machine["node_config"].get("scheduling", {}).get("provisioningModel", "")
        if name == config["head_node_type"]:
            assert not market and machine["resources"] == {"CPU": 0}
        else:
            assert market.lower() == "spot" and machine["min_workers"] == 0 < machine["max_workers"]
    assert sum(machine.get("max_workers", 0) for machine in machines(cloud).values()) <= config["max_workers"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_training_fits_the_machines(cloud: str) -> None:
    trainer, gpu = machines(cloud)["trainer"], machines(cloud)["gpu"]
    for _, config in CONFIGS.values():
        cluster, data, record = config.cluster, config.data, config.record
        for name, each in (("CPU", cluster.cpus), ("GPU", cluster.gpus)):
            assert cluster.max_workers * each <= trainer["max_workers"] * trainer["resources"][name]
        beside = data.encode_workers * data.encode_gpus + record.sample_gpus
        assert beside <= gpu["max_workers"] * gpu["resources"]["GPU"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_machines_run_the_image_with_a_token_and_say_when_they_are_taken_away(cloud: str) -> None:
    config = launcher(cloud)
    assert re.search(r"/posegen:\d+\.\d+\.\d+-cuda$", config["docker"]["image"])
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert any(f"drain_on_notice.py {cloud} " in command for command in config["worker_start_ray_commands"])
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [command for command in config[commands] if "ray start" in command]
        options = re.findall(r"--[a-z-]+", start.split("ray start")[1])
        assert set(options) <= {name for option in scripts.start.params for name in option.opts}
        assert ". ~/posegen.env" in start and "/home/ray/posegen.env" in config["file_mounts"]


@pytest.fixture(params=CLOUDS)
def metadata(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, threading.Event]]:
    """A cloud, its machines' metadata server at an address, and the event after which it announces the end."""
    ends = threading.Event()

    class Server(BaseHTTPRequestHandler):
        def answer(self) -> None:
            known = {"/latest/api/token": "token", "/computeMetadata/v1/instance/preempted": "FALSE"}
            if ends.is_set():
                known["/computeMetadata/v1/instance/preempted"] = "TRUE"
                if self.headers.get("X-aws-ec2-metadata-token") == "token":
                    known["/latest/meta-data/spot/instance-action"] = '{"action": "terminate"}'
            body = known.get(self.path, "").encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = answer  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield request.param, f"http://127.0.0.1:{server.server_port}", ends
    server.shutdown()


def test_ray_is_told_of_a_notice_once(metadata: tuple[str, str, threading.Event], tmp_path: Path) -> None:
    cloud, url, ends = metadata
    told = tmp_path / "told"
    ray = tmp_path / "ray"
    ray.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {told}\n')
    ray.chmod(0o755)
    program = [sys.executable, str(FOLDER / "drain_on_notice.py"), cloud, "--server", url]
    watch = Popen(program, env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, stdout=DEVNULL)
    assert not told.exists()
    ends.set()
    assert watch.wait(60) == 0
    arguments = told.read_text().splitlines()
    assert arguments.count("drain-node") == 1
    options = {argument for argument in arguments if argument.startswith("--")}
    assert options <= {name for option in scripts.drain_node.params for name in option.opts}


def test_the_commands_are_shell() -> None:
    for cloud in CLOUDS:
        for name, commands in launcher(cloud).items():
            if name.endswith("_commands"):
                assert all(shlex.split(command) for command in commands)

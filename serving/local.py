"""A server on a Ray cluster of its own on this machine, as long as a block of code lasts.

It never joins a cluster that is up. Ray's processes end with the process that started them, however that ends; if it
ends in order, the replicas are first asked to stop, so that none of their children are left either.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve

from serving.app import app
from serving.proxy import CALLBACK

HOST, ANY = "127.0.0.1", "0.0.0.0"
PATIENCE_S = 600.0  # on a busy machine


class StartError(RuntimeError):
    """The server does not start: why, in a sentence."""


@contextmanager
def local_server(
    settings: Mapping[str, Any], cpus: int, port: int | None = None, host: str = HOST
) -> Iterator[str]:
    """The address of a server that can work. settings: see `serving.config`.

    cpus: what its replicas may reserve in all, however many the machine has. port: a free one by default. host: the
    address to listen at. Raises StartError.
    """
    port = port or free_port()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    os.environ.update(CALLBACK)  # which Ray's processes take over
    try:
        # Its processes keep logs in Ray's folder; here they would drown what the caller prints.
        ray.init(
            "local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            serve.start(http_options={"host": host, "port": port}, logging_config={"log_level": "ERROR"})
            serve.run(app(dict(settings)))
            yield _ready(f"http://{HOST if host == ANY else host}:{port}")
        finally:
            serve.shutdown()
    finally:
        ray.shutdown()


def _ready(url: str) -> str:
    """The server's address, as soon as it is healthy."""
    deadline = time.monotonic() + PATIENCE_S
    while problems := _problems(url):
        if time.monotonic() > deadline:
            raise StartError(f"The server cannot work. {problems}")
        time.sleep(0.2)
    return url


def _problems(url: str) -> str:
    """The server's problems, see `serving.api.health`."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=60) as answer:
            return " ".join(json.load(answer)["problems"])
    except OSError as error:
        return f"It does not answer: {error}."


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])

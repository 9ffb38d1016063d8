"""What several test files share."""

from __future__ import annotations

import logging
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from moto.server import ThreadedMotoServer

from testkit.buckets import BucketProxy
from testkit.job_server import JobServer, running_job_server
from testkit.postgres import empty_database, postgres_server
from testkit.tiny_qwen import save_tiny_qwen

hypothesis.settings.register_profile("untimed", deadline=None)  # a slow machine is no fault
hypothesis.settings.load_profile("untimed")

# A shell ignores interrupts for what it runs in the background, and programs that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[str]:
    """The address of a Ray cluster of the module's own, of this process, with two CPUs."""
    import ray  # takes seconds, and few tests need it

    context: Any = ray.init(num_cpus=2, log_to_driver=False, logging_level=logging.ERROR)
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture
def job_server() -> Iterator[JobServer]:
    """A Ray cluster of the test's own that takes jobs."""
    with running_job_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """The address of an S3 server on this machine, spoken to over HTTP like the real one."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a new, empty bucket, to be opened with nothing but the usual environment variables."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    name = tmp_path.name.lower().replace("_", "-").strip("-")
    urllib.request.urlopen(urllib.request.Request(f"{s3_address}/{name}", method="PUT")).close()
    return f"s3://{name}"


@pytest.fixture
def proxy(bucket: str, s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketProxy]:
    """A server before the bucket's, which everything in the test speaks to."""
    server = BucketProxy(s3_address)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Qwen2.5-VL."""
    return save_tiny_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The folder of the socket of a PostgreSQL server of the tests' own."""
    with postgres_server() as folder:
        yield folder


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    return empty_database(request.getfixturevalue("postgres"))

"""The whole job with input and output in buckets: what it reads, and that throttling and kills change no row.

The bucket is an S3 server on this machine. A second server before it counts what is asked of it and, where a test wants
it, refuses one call in ten with SlowDown, as the real one does when too much is asked at once.
"""

from __future__ import annotations

import http.client
import http.server
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from posegen import versions
from posegen.common.storage import Folder
from testkit import ROOT
from testkit.videos import write_video

pytestmark = pytest.mark.slow

REFUSED = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to an S3 server; refuses a share of them; counts the bytes of objects below a prefix."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target.removeprefix("http://")
        self.share, self.chance = 0.0, random.Random(1)
        self.read_bytes, self.refused, self.lock = 0, 0, threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def answer(self) -> None:
        body = self._body()
        with self.server.lock:
            refuse = self.server.chance.random() < self.server.share
            self.server.refused += refuse
        if refuse:
            self._send(503, {"Content-Type": "application/xml"}, REFUSED)
            return
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
        response = connection.getresponse()
        content = response.read()
        if self.command == "GET" and "/videos/" in self.path:
            with self.server.lock:
                self.server.read_bytes += len(content)
        sent = {name: value for name, value in response.getheaders() if name.lower() not in HOP}
        if self.command == "HEAD" and (length := response.getheader("Content-Length")):
            sent["Content-Length"] = length
        self._send(response.status, sent, content)
        connection.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
    setattr(_Handler, f"do_{method}", _Handler.answer)


@pytest.fixture
def proxy(bucket: str, s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A server before the bucket's, which everything in the test speaks to."""
    server = Proxy(s3_address)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def slope(number: int) -> np.ndarray:
    """A picture of nobody (96, 160, 3) that changes to another every 90 frames, so that each makes a clip."""
    level = np.linspace(40, 90, 160) + number / 10 + 100 * (number // 90 % 2)
    turned = level[::-1] if number // 90 % 2 else level
    return np.broadcast_to(turned[None, :, None], (96, 160, 3)).astype(np.uint8)


@pytest.fixture
def videos(bucket: str, tmp_path: Path) -> Folder:
    """Three videos of some clips each, and a file that is none, in the bucket."""
    folder = Folder(bucket, "videos")
    for number, frames in enumerate((180, 200, 100)):
        path = write_video(tmp_path / f"{number}.mp4", range(frames), picture=slope)
        folder.save(f"{number}.mp4", path)
    folder.write("text.mp4", b"this is no video")
    return folder


def rows(output: str) -> pa.Table:
    """The finished table without what a clock measured."""
    folder = Folder(output)
    parts = [folder.read_table(name) for name in versions.files(folder, "clips")]
    return pa.concat_tables(parts).drop_columns(["cpu_seconds"]).sort_by("clip_id")


def test_a_bucket_is_read_once_and_kills_and_throttling_change_no_row(
    bucket: str, videos: Folder, proxy: Proxy
) -> None:
    calm, harried = f"{bucket}/calm", f"{bucket}/harried"
    sizes = sum(size for _, size, _ in videos.walk())
    started = subprocess.run(command(bucket, calm), cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert started.returncode == 0, started.stderr
    assert proxy.read_bytes <= 1.05 * sizes
    assert rows(calm).num_rows >= 6

    proxy.share = 0.1
    for _ in range(2):
        driver = subprocess.Popen(command(bucket, harried), cwd=ROOT, start_new_session=True)
        work = Folder(harried, "work")
        before = len(work.names("", below=True))
        deadline = time.monotonic() + 300
        while len(work.names("", below=True)) < before + 3 and driver.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    done = subprocess.run(command(bucket, harried), cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert proxy.refused > 10
    proxy.share = 0.0
    assert rows(harried).equals(rows(calm))


def command(bucket: str, output: str) -> list[str]:
    """The job over the bucket's videos, on a cluster of its own."""
    return [sys.executable, "pipeline/curate.py", "--input", f"{bucket}/videos", "--output", output]

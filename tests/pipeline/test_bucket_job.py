"""The whole job with input and output in buckets: what it reads, and that throttling and kills change no row.

The bucket is an S3 server on this machine. A second server before it counts what is asked of it and, where a test wants
it, refuses one call in ten with SlowDown, as the real one does when too much is asked at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from posegen import versions
from posegen.common.storage import Folder
from testkit import ROOT
from testkit.buckets import BucketProxy
from testkit.videos import write_video

pytestmark = pytest.mark.long


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
    bucket: str, videos: Folder, proxy: BucketProxy
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

"""Scratch folders: those of killed processes are deleted by the next, those in use are left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from serving.uploads.scratch import scratch_folder

HOLDS_ONE = (
    "import sys\nfrom serving.uploads.scratch import scratch_folder\n"
    "with scratch_folder() as folder:\n"
    "    (folder / 'video.mp4').write_bytes(b'large')\n"
    "    print(folder, flush=True)\n"
    "    sys.stdin.read()\n"
)


def test_what_a_killed_process_left_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDS_ONE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    left = Path(child.stdout.readline().strip())
    os.utime(left, (0, 0))
    with scratch_folder() as mine:
        assert mine.is_dir() and left.is_dir(), "it is in use"
    assert not mine.exists()
    child.kill()
    child.communicate()
    with scratch_folder() as mine:
        assert list(tmp_path.iterdir()) == [mine]

"""The command in a real terminal: Ctrl-C ends a training with a checkpoint and an adapter."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from posegen.model.checkpoints import read_adapter
from testkit import ROOT
from testkit.tiny_training import write_tiny_dataset, write_tiny_model
from training.checkpoint import read_position
from training.log import read_log

pytestmark = pytest.mark.slow

CTRL_C = b"\x03"


def test_ctrl_c_in_a_terminal_ends_with_a_checkpoint_and_an_adapter(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model")
    write_tiny_dataset(tmp_path / "dataset")
    output = tmp_path / "output"
    command = (
        f"{sys.executable} training/train.py mini_cpu --steps 100000 --output {output} "
        f"--data.dataset {tmp_path / 'dataset'} --data.model {tmp_path / 'model'} --data.sizes 32 48 "
        "--record.log_every 1 --record.validate_every 0"
    )
    terminal, its_end = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(its_end, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command.split(), stdin=its_end, stdout=its_end, stderr=its_end, cwd=ROOT, preexec_fn=take_terminal
    )
    os.close(its_end)
    said: list[bytes] = []
    reader = threading.Thread(target=_read, args=(terminal, said), daemon=True)
    reader.start()
    try:
        while process.poll() is None and not (output.exists() and len(read_log(output)) >= 3):
            time.sleep(0.1)
        os.write(terminal, CTRL_C)  # which the terminal makes a SIGINT to each process in its foreground
        code = process.wait()
    finally:
        process.kill()
    reader.join(timeout=30)
    os.close(terminal)
    text = b"".join(said).decode(errors="replace")
    assert code == 0, text
    assert "ending after this step, with a checkpoint" in text
    last = max(row["step"] for row in read_log(output))
    assert read_position(output / f"checkpoint-{last:08.0f}").step == last
    assert read_adapter(output / "adapters" / "base").tensors


def _read(terminal: int, said: list[bytes]) -> None:
    """What the terminal shows, until all that write to it have ended."""
    try:
        while part := os.read(terminal, 4096):
            said.append(part)
    except OSError:  # Linux's end of a terminal
        pass

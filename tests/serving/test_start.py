"""The server that `make serve` starts: it keeps its state where it is told and ends quietly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from serving.local import free_port
from serving.start import Start, settings
from testkit import ROOT


def test_the_state_lies_in_an_ignored_folder_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert f"/{Start().state.parts[0]}/" in ignored
    monkeypatch.setenv("POSEGEN_DATABASE", "postgresql://host/name")
    assert list(settings(Start())) == ["artifacts"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long, id="ctrl-c")]
)
def test_it_ends_without_a_stack_trace(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    program = subprocess.Popen(
        [sys.executable, "-m", "serving.start", "--port", str(port), "--state", "state"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "POSEGEN_API": "{free_bytes: 0}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert program.stdout is not None
    said = ""
    for line in program.stdout:
        said += line
        if f"The page is http://127.0.0.1:{port}/" in line:
            break
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/page/", timeout=60) as page:
        assert page.status == 200
    program.send_signal(number)
    rest, _ = program.communicate(timeout=120)
    assert program.returncode == 0, said + rest
    assert "The server has stopped" in rest
    assert "Traceback" not in said + rest, said + rest
    assert [path.name for path in tmp_path.iterdir()] == ["state"]

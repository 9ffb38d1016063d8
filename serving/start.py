"""Starts a server on this machine, with a page: `make serve`, `python serving/start.py --port 8080`.

It has a Ray cluster of its own and ends, with all its processes, at Ctrl+C or SIGTERM. Its jobs and videos stay in a
folder and are there at the next start. Settings come from the environment, see `serving.config`. Unless POSEGEN_MODEL
names another, its model is the bundled mini model, which knows drawn people only, not photographs. On a cluster,
`serve deploy cluster/serve.yaml` starts the same server.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import tyro

from serving.config import PREFIX, ConfigError
from serving.local import StartError, local_server
from serving.state.rows import StateError


@dataclass(frozen=True)
class Start:
    """Where a server listens and keeps its state."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for all of this machine's. Others than this machine need tokens (POSEGEN_API)."""
    port: int = 8000
    """Port to listen at."""
    state: Path = Path("build/server")
    """Folder of jobs and videos, unless POSEGEN_DATABASE or POSEGEN_ARTIFACTS name other places."""


def main() -> None:
    """The command line; ends with 1 where the server does not start."""
    start = tyro.cli(Start, description=__doc__)
    try:
        print("Starting, which takes about half a minute", flush=True)
        with local_server(settings(start), max(2, os.cpu_count() or 2), start.port, start.host) as url:
            signal.signal(signal.SIGTERM, _interrupt)
            print(
                f"The page is {url}/ and what is made lies in {start.state}; Ctrl+C ends the server",
                flush=True,
            )
            threading.Event().wait()
    except (StartError, ConfigError, StateError) as error:
        sys.exit(f"serve: {error}")
    except KeyboardInterrupt:
        print("The server has stopped")


def settings(start: Start) -> dict[str, str]:
    """Where the state lies, as far as the environment does not say so."""
    state = start.state.resolve()
    given = {"database": f"sqlite:///{state}/serving.db", "artifacts": str(state / "artifacts")}
    if f"{PREFIX}CONFIG" in os.environ:
        return {}
    return {name: value for name, value in given.items() if PREFIX + name.upper() not in os.environ}


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()

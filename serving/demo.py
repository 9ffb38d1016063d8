"""Shows the server at work: starts one with the mini model, makes a video over HTTP, stops it.

    python serving/demo.py --image person.jpg --video dance.mp4 --output out.mp4

Two replicas make segments side by side. The server takes a free port, so it does not disturb one that is up, and keeps
its state in a temporary folder. `make serve` starts one that stays.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace

import tyro

from serving.client import ClientError, VideoRequest, make_video
from serving.local import StartError, local_server


def main() -> None:
    """The command line; ends with 1 where no video is made."""
    request = tyro.cli(VideoRequest, description=__doc__)
    try:
        with tempfile.TemporaryDirectory(prefix="posegen-demo-") as folder:
            print("Starting the server, which takes about half a minute", flush=True)
            with local_server(settings(folder), cpus=2) as url:
                print(f"It answers at {url}", flush=True)
                make_video(replace(request, url=url))
    except (StartError, ClientError) as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted; the server has stopped")
    print("The server has stopped")


def settings(folder: str) -> dict[str, object]:
    """A server for one user on two cores."""
    return {
        "database": f"sqlite:///{folder}/serving.db",
        "artifacts": f"{folder}/artifacts",
        "poll": 0.2,
        "generators": {"min_workers": 2, "cpus": 0.5},
    }


if __name__ == "__main__":
    main()

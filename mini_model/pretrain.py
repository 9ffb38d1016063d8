"""Makes the mini model's base: puppet clips, then the video codec, then an image-to-video transformer on them.

    python mini_model/pretrain.py data --clips 8000
    python mini_model/pretrain.py codec --minutes 5
    python mini_model/pretrain.py base --minutes 30

Each stage goes on where it stopped, also after a kill: the same command again does the rest, and more --steps
train on. Everything lies in --folder: clips/, codec.pt and base.pt (checkpoints), codec.jsonl and base.jsonl
(losses), vae/ and base/ (the models, in diffusers' layout).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import tyro

from mini_model.base import BaseConfig, train_base
from mini_model.clips import ClipsConfig, write_clips
from mini_model.codec import CodecConfig, train_codec

STAGES: dict[str, tuple[type, Callable[[Any], None]]] = {
    "data": (ClipsConfig, write_clips),
    "codec": (CodecConfig, train_codec),
    "base": (BaseConfig, train_base),
}


def main() -> None:
    config = tyro.extras.subcommand_cli_from_dict({name: stage for name, (stage, _) in STAGES.items()})
    torch.set_num_threads(config.threads)
    dict(STAGES.values())[type(config)](config)


if __name__ == "__main__":
    main()

"""Makes the mini model by gradient, stage by stage, on one machine without a cluster.

    python mini_model/pretrain.py data --clips 4000
    python mini_model/pretrain.py codec
    python mini_model/pretrain.py base --minutes 30
    python mini_model/pretrain.py items --clips 8000
    python mini_model/pretrain.py adapter --adapter base --minutes 40

The first three make the image-to-video base with its video codec; the last two train an adapter's weights in full. Each
stage goes on where it stopped, also after a kill: the same command again does the rest, and more --steps train on.
`torchrun --nproc-per-node 2 -- mini_model/pretrain.py ...` trains by two processes, each with --batch clips a step.
Everything lies in --folder: clips/ and items/, NAME.pt (checkpoints) and NAME.jsonl (losses) of each stage, vae/, base/
and adapters/ (in the layouts of diffusers and PEFT).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import tyro
from torch import distributed

from mini_model.base import BaseConfig, train_base
from mini_model.clips import ClipsConfig, write_clips
from mini_model.codec import CodecConfig, fit_codec
from mini_model.items import ItemsConfig, write_items
from mini_model.posed import PosedConfig, train_posed
from mini_model.widen import WidenConfig, write_wide

STAGES: dict[str, tuple[type, Callable[[Any], None]]] = {
    "data": (ClipsConfig, write_clips),
    "codec": (CodecConfig, fit_codec),
    "base": (BaseConfig, train_base),
    "items": (ItemsConfig, write_items),
    "widen": (WidenConfig, write_wide),
    "adapter": (PosedConfig, train_posed),
}


def main() -> None:
    config = tyro.extras.subcommand_cli_from_dict({name: stage for name, (stage, _) in STAGES.items()})
    torch.set_num_threads(config.threads)
    if "WORLD_SIZE" in os.environ:
        distributed.init_process_group("gloo")
    dict(STAGES.values())[type(config)](config)


if __name__ == "__main__":
    main()

"""Step time of a training beside a bare PyTorch loop over the same model, adapter and batch, in turn in one process.

    python benchmarks/train.py [--steps 20] [--batch-size 8] [--zero-stage 2] [--model DIR]

Ours is what a worker does in a step: DeepSpeed, micro-batches, EMA, sums over workers. The bare loop is
forward, backward, clipping, and torch's AdamW. Each pair of steps has the same batch; medians are compared, of
wall time and of the process's CPU time. By default a random model of the mini model's size.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray.train.torch
import torch
import tyro
from diffusers import WanTransformer3DModel

from testkit.tiny_training import CHANNELS, FRAMES, MINI, SIZE, write_tiny_dataset, write_tiny_model
from training.cluster import start_ray
from training.config import ClusterConfig, TrainConfig, mini_cpu
from training.data.stream import prepare
from training.loop import Training, load_transformer
from training.step.objective import Examples, velocity_losses
from training.train import trainer, with_absolute_paths

RESULT = "result.json"
WARM_UP = 2


def main(
    steps: int = 20, batch_size: int = 8, zero_stage: Literal[2, 3] = 2, model: str | None = None
) -> None:
    """Measures and prints a table, then one JSON object with `ours_over_loop`.

    Args:
        steps: Pairs of steps that are measured.
        batch_size: Items of a step.
        zero_stage: DeepSpeed's.
        model: Model folder; a random one of the mini model's size by default.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        config = with_absolute_paths(configuration(scratch, batch_size, zero_stage, model))
        start_ray()
        prepare(config.data)
        trainer(config, measure, steps=steps).fit()
        found = json.loads((scratch / RESULT).read_text())
    for name in ("wall", "cpu"):
        ours, loop = found[f"ours_{name}_seconds"], found[f"loop_{name}_seconds"]
        print(f"{name:4} time a step: ours {ours:.3f} s, bare loop {loop:.3f} s, ratio {ours / loop:.3f}")
    print(json.dumps(found))


def configuration(
    scratch: Path, batch_size: int, zero_stage: Literal[2, 3], model: str | None
) -> TrainConfig:
    write_tiny_dataset(scratch / "dataset", clips=4)
    if model is None:
        model = str(write_tiny_model(scratch / "model"))
        transformer = WanTransformer3DModel(
            **{**MINI, "in_channels": 2 * CHANNELS + 4, "out_channels": CHANNELS}
        )
        transformer.register_to_config(prediction="sample")
        transformer.save_pretrained(scratch / "model" / "transformer")
    mini = mini_cpu()
    return replace(
        mini,
        data=replace(
            mini.data,
            dataset=str(scratch / "dataset"),
            model=model,
            sizes=(SIZE,),
            frames=(FRAMES,),
            batch_size=batch_size,
            validation_clips=0,
        ),
        output=str(scratch / "output"),
        engine=replace(mini.engine, zero_stage=zero_stage),
        cluster=ClusterConfig(max_failures=0),
        record=replace(mini.record, validate_every=0),
    )


LATENTS = (3, 12, 8)  # of 9 frames of 64x96


def measure(settings: dict[str, Any]) -> None:
    """On the worker: steps of both in turn."""
    config: TrainConfig = settings["config"]
    training = Training(config)
    loop = BareLoop(config)
    seconds: dict[str, list[float]] = {}
    for step in range(WARM_UP + settings["steps"]):
        batch = random_examples(config, training.model_config, seed=step)
        for name, act in (("ours", training.train_step), ("loop", loop.step)):
            for clock, spent in timed(partial(act, batch)).items():
                seconds.setdefault(f"{name}_{clock}_seconds", []).append(spent)
    found: dict[str, Any] = {name: statistics.median(values[WARM_UP:]) for name, values in seconds.items()}
    pairs = zip(seconds["ours_wall_seconds"], seconds["loop_wall_seconds"], strict=True)
    found["ours_over_loop"] = statistics.median([ours / loop for ours, loop in list(pairs)[WARM_UP:]])
    found |= {"batch_size": config.data.batch_size, "zero_stage": config.engine.zero_stage}
    (Path(config.output).parent / RESULT).write_text(json.dumps(found))


def timed(act: Callable[[], object]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


class BareLoop:
    """Forward, backward, clipping and AdamW."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.model = load_transformer(config, ray.train.torch.get_device())
        self.trained = [part for part in self.model.parameters() if part.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=config.optimizer.learning_rate)

    def step(self, batch: Examples) -> float:
        weight = self.config.loss.person_weight
        loss = velocity_losses(self.model, self.model.config.prediction, torch.float32, batch, weight).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, self.config.optimizer.max_grad_norm)
        self.optimizer.step()
        self.model.zero_grad()
        return loss.item()


def random_examples(config: TrainConfig, model: Any, seed: int) -> Examples:
    """A batch of random numbers in the mini model's shapes."""
    random = torch.Generator().manual_seed(seed)
    count, channels = config.data.batch_size, model.out_channels
    latents, reference = (channels, *LATENTS), (channels, 1, *LATENTS[1:])

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=random)

    return Examples(
        latents=normal(*latents),
        reference_latents=normal(*reference),
        pose_latents=normal(channels + 4, *LATENTS),
        hand_latents=None,
        text=normal(32, model.text_dim),
        image=None,
        person=(normal(1, *LATENTS) > 0).float(),
        noise=normal(*latents),
        sigmas=torch.rand(count, generator=random),
    )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

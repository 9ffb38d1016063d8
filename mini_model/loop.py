"""The loop that trains a small model on one machine and can be stopped at any time.

Everything random in a step comes from (seed, step), and a checkpoint is weights, their EMA, optimiser moments and step:
a run that is stopped and gone on with gives the same weights, bit for bit, as one that was not. The learning rate
depends on the step and the total only, so a finished run can be given more; where the time is what is given, it falls
by the clock, and the weights depend on the machine's speed. Started by torchrun, each process computes a batch of its
own, and all take the step along their mean gradient; what is drawn for a step is alike in all, so that none waits.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, distributed, nn

from mini_model.muon import Muon

EMA_DECAY = 0.999
MAX_GRAD_NORM = 1.0
WEIGHT_DECAY = 0.01
WARMUP_STEPS = 100
MIN_LR_FACTOR = 0.05
"""The cosine ends at this share of the learning rate."""


@dataclass(frozen=True)
class LoopConfig:
    folder: Path = Path("build/mini")
    """Where everything lies."""
    steps: int = 1000
    """Where the training ends, counted from its very start; the learning rate falls until then."""
    minutes: float = math.inf
    """Stop after so many minutes, to go on another time."""
    finish_minutes: float = math.inf
    """End for good after so many minutes, at whatever step: the learning rate falls by the clock then."""
    batch: int = 8
    """Clips in a step of a process."""
    learning_rate: float = 1e-3
    """The highest learning rate."""
    validate_every: int = 200
    """Steps between validations; checkpoint and model are written there too."""
    threads: int = 2
    """CPU threads."""
    device: str = "cpu"
    """Where the network is trained, such as cuda."""
    seed: int = 0
    """Of everything random."""


def processes() -> int:
    """How many train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this process is; the first one, 0, measures and writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def own(drawn: Tensor) -> Tensor:
    """Of what was drawn for the batches of all processes, this one's."""
    return drawn[rank() :: processes()]


class Loop:
    """Trains `model` on `loss(batch, generator)` of what `read(generator)` gives while the step before is computed.

    The generator for reading is on the CPU and alike in all processes, that of the loss on the device. name: of the
    stage and its files. Raises ValueError where the checkpoint was written for another model.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        read: Callable[[Generator], Any],
        loss: Callable[[Any, Generator], Tensor],
        config: LoopConfig,
    ) -> None:
        self.name, self.read, self.loss, self.config = name, read, loss, config
        self.model = model
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.ema = [weight.detach().clone() for weight in self.weights]
        self.optimizers = make_optimizers(model)
        self.step = 0
        self.began, self.minutes = time.monotonic(), 0.0
        self.checkpoint = config.folder / f"{name}.pt"
        self.log = config.folder / f"{name}.jsonl"
        if self.checkpoint.exists():
            self._load()

    def run(self, validation: Callable[[], dict[str, float]], publish: Callable[[], None]) -> None:
        """Trains to the end or to the time limit.

        validation() gives losses and publish() writes the model; both are called with the EMA of the weights in place.
        """
        self.began, self.minutes, first, losses = time.monotonic(), 0.0, self.step, []
        limit = min(self.config.minutes, self.config.finish_minutes)
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self.read, self._generator("cpu", self.step))
            while self.step < self.config.steps and self.minutes < limit:
                batch = ahead.result()
                ahead = reader.submit(self.read, self._generator("cpu", self.step + 1))
                losses.append(self._train(batch))
                if rank() > 0:
                    continue
                if self.step % 20 == 0:
                    self._show(first, losses[-20:])
                if self.step % self.config.validate_every == 0:
                    self._measure(losses, validation, publish)
                    losses = []
        if losses and rank() == 0:
            self._measure(losses, validation, publish)

    def _generator(self, device: str, step: int) -> Generator:
        return torch.Generator(device).manual_seed(self.config.seed * 2**32 + step)

    def _train(self, batch: Any) -> float:
        generator = self._generator(self.config.device, self.step * processes() + rank())
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._learning_rate()
        loss = self.loss(batch, generator)
        loss.backward()
        self._agree()
        nn.utils.clip_grad_norm_(self.weights, MAX_GRAD_NORM)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad()
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.ema, [weight.detach() for weight in self.weights], 1 - decay)
        self.step += 1
        return loss.item()

    def _agree(self) -> None:
        """All processes have the mean gradient and the first one's clock, so that they go on alike."""
        self.minutes = (time.monotonic() - self.began) / 60
        if processes() == 1:
            return
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        clock = torch.full((1,), self.minutes if rank() == 0 else 0.0, device=self.config.device)
        joint = torch.cat([clock, nn.utils.parameters_to_vector(gradients)])
        distributed.all_reduce(joint)
        self.minutes = joint[0].item()
        nn.utils.vector_to_parameters(joint[1:] / processes(), gradients)

    def _learning_rate(self) -> float:
        clock = self.minutes / self.config.finish_minutes
        fall = 0.5 + 0.5 * math.cos(math.pi * min(1.0, max(self.step / self.config.steps, clock)))
        warm = min(1.0, (self.step + 1) / WARMUP_STEPS)
        return self.config.learning_rate * warm * (MIN_LR_FACTOR + (1 - MIN_LR_FACTOR) * fall)

    def _measure(
        self, losses: list[float], validation: Callable[[], dict[str, float]], publish: Callable[[], None]
    ) -> None:
        row = {"step": self.step, "loss": sum(losses) / len(losses), "learning_rate": self._learning_rate()}
        with self._ema_in_place(), torch.no_grad():
            row |= validation()
            publish()
        self._save()
        print(self.name, {key: float(f"{value:.4g}") for key, value in row.items()}, flush=True)
        with self.log.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _show(self, first: int, losses: list[float]) -> None:
        elapsed = time.monotonic() - self.began
        left = min(
            elapsed / (self.step - first) * (self.config.steps - self.step),
            60 * min(self.config.minutes, self.config.finish_minutes) - elapsed,
        )
        rate = (self.step - first) * self.config.batch * processes() / elapsed
        print(
            f"{self.name} {self.step}/{self.config.steps}, loss {sum(losses) / len(losses):.4f}, "
            f"{rate:.1f} clips/s, {left / 60:.1f} min left",
            flush=True,
        )

    @contextmanager
    def _ema_in_place(self) -> Iterator[None]:
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for weight, ema in zip(self.weights, self.ema, strict=True):
            held = weight.clone()
            weight.copy_(ema)
            ema.copy_(held)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.rename(self.checkpoint)

    def _load(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.config.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, moments in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(moments)
        self.ema, self.step = state["ema"], state["step"]
        rows = self.log.read_text().splitlines() if self.log.exists() else []
        kept = [row for row in rows if json.loads(row)["step"] <= self.step]
        self.log.write_text("".join(f"{row}\n" for row in kept))
        print(f"{self.name} goes on at step {self.step}", flush=True)


def make_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of blocks, AdamW for all other weights; their steps are of the same size.

    Muon makes the steps in all directions of a matrix equally large (https://kellerjordan.github.io/posts/muon/).
    """
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [weight for name, weight in trained if weight.ndim == 2 and "block" in name]
    others = [weight for name, weight in trained if weight.ndim != 2 or "block" not in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY)
    ]
    if matrices:
        optimizers.append(Muon(matrices, WEIGHT_DECAY))
    return optimizers

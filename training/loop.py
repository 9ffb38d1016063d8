"""What each worker does: it takes its share of every step's batch, and all together make the step of one batch.

An item's loss is weighed by the batch of all workers, so one worker and many follow the same curve. All
workers pass the same number of micro-batches through the model, as ZeRO-3 requires; one with fewer items repeats an
item with weight zero. What ends a training early (its time limit, a signal to the driver) travels with the sum of the
losses, so all workers stop at the same step, with a checkpoint. A step whose gradient is not finite changes no weight.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from posegen.common.faults import StorageFaultError
from posegen.common.storage import Folder
from posegen.costs import Pass, peak_flops, tokens
from posegen.model.transformer import PoseGenTransformer3DModel
from training.checkpoint import Position, Saved, fingerprint, read_position, read_state, report
from training.config import TrainConfig
from training.costs import flops_per_training_step
from training.data.stream import Batch, EncoderActors, TrainingStream, ValidationShare
from training.log import Log, Stopwatch, gpu_line, progress_line, validation_line
from training.model.adapter import adapter_parameters, load_model
from training.output import DIVERGED_FILE, STOP_FILE, fetched
from training.sample_videos import sample_later
from training.step.blocks import set_up_blocks
from training.step.engine import WEIGHT, State, gather_state, restore_state, set_learning_rate, start_engine
from training.step.groups import Group
from training.step.noise import noise, sigmas
from training.step.objective import Examples, velocity_losses
from training.step.optimizer import learning_rate
from training.trackers import open_tracker

MOST_SKIPPED = 10
"""Steps in a row without a finite gradient after which a training ends."""
ASK_EVERY_S = 1.0
"""How often, at most, Ray is asked whether a machine will be taken away, which all workers do together."""


def train_loop_per_worker(settings: dict[str, Any]) -> None:
    """Ray Train's entry: {"config": TrainConfig, "encoders": EncoderActors or None}."""
    Training(settings["config"], settings["encoders"]).run()


class Training:
    """A worker of a training, from the last checkpoint on where there is one.

    encoders: those of all workers; without them this process encodes.
    """

    def __init__(self, config: TrainConfig, encoders: EncoderActors | None = None) -> None:
        context = ray.train.get_context()
        self.config, self.output = config, Folder(config.output)
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.stream = TrainingStream(config.data, encoders)
        self.group = Group.of(self.rank, self.workers, config.cluster.context_parallel, self.device)
        share = math.ceil(config.data.batch_size / self.group.count)
        self.passes = math.ceil(share / config.engine.micro_batch_size)
        self.step = self.skipped = 0
        self._start_model()
        self.started = self.last = self.asked = self.looked = self.saved = time.monotonic()
        self.asks, self.due, self.noticed = 0.0, 0.0, False
        self.skipped_running = 0
        self.first_step = self.logged_step = self.saved_step = self.step
        self.sampling: list[ray.ObjectRef] = []
        self.losses: list[float] = []  # since the last row of the log
        self.watch = Stopwatch(self.device)
        self.log = self._open_log() if self.rank == 0 else None
        self.replaced = 0  # clips that could not be used, since the last row

    def _open_log(self) -> Log:
        output = self.config.output
        tracker = open_tracker(self.config.record.tracker, output, self.step, self.config)
        return Log(output, self.step, tracker)

    def _start_model(self) -> None:
        config, adapter = self.config, self.config.data.adapter
        split_on_host = config.engine.zero_stage == 3
        transformer = load_transformer(config, torch.device("cpu") if split_on_host else self.device)
        self.group.split(transformer)
        self.prediction, self.dtype = transformer.config.prediction, transformer.patch_embedding.weight.dtype
        self.model_config, self.lora = transformer.config, transformer.peft_config[adapter]
        parameters = adapter_parameters(transformer, adapter)
        self.trained = {name: part for name, part in parameters.items() if part.requires_grad}
        self.frozen = {
            name: part.detach().float().cpu().clone()
            for name, part in parameters.items()
            if not part.requires_grad
        }
        state = self._read_checkpoint()
        if state is not None:
            with torch.no_grad():
                for name, part in self.trained.items():
                    part.copy_(state[WEIGHT][name])
        self.engine = start_engine(transformer, config.engine, config.optimizer, self.passes)
        if state is not None:
            restore_state(self.engine, self.trained, state, self.step - self.skipped)

    def _read_checkpoint(self) -> State | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with fetched(self.config.output, Path(checkpoint.path).name) as folder:
            position = read_position(folder)
            self.step, self.skipped = position.step, position.skipped
            return read_state(folder)

    @cached_property
    def validation(self) -> list[ValidationShare]:
        """The group's share of what is validated on; made when all first ask for it, not before the first step."""
        shares = None
        if self.group.leads:
            tell = partial(print, flush=True)
            shares = self.stream.validation_shares(self.group.number, self.group.count, tell)
        return self.group.handed_out(shares, self.device)

    @cached_property
    def samples(self) -> Batch | None:
        """The validation clips that sample videos are made of."""
        return self.stream.sample_batch(self.config.record.sample_clips)

    def run(self) -> None:
        """Trains to the last step, to the time limit or until it is told to stop."""
        config, record = self.config, self.config.record
        batches = self._batches()
        stop = False
        while self.step < config.steps and not stop:
            with self.watch.timed("waiting"):
                batch, examples = next(batches)
            self._tell_replaced(batch)
            loss, stop = self.train_step(examples)
            self.watch.add("encode", batch.encode_seconds)
            self._count(loss)
            if self.skipped_running == MOST_SKIPPED:
                if self.rank == 0:
                    self.output.write(DIVERGED_FILE, self._divergence().encode())
                batches.close()
                return
            if self.step % record.log_every == 0:
                self._log(batch)
            if self._notices() and self.step < config.steps:
                self._save()
            if record.validate_every and self.step % record.validate_every == 0 and self.validation:
                self._validate()
            due = self.due or self.step % record.checkpoint_every == 0
            if due and not stop and self.step not in (self.saved_step, config.steps):
                self._save()
        batches.close()
        if self.step > self.saved_step:
            self._save(last=True)
        if self.log:
            self.log.close()

    def _tell_replaced(self, batch: Batch) -> None:
        if not self.group.leads:
            return
        self.replaced += len(batch.replaced)
        for sentence in batch.replaced:
            print(sentence, flush=True)

    def _batches(self) -> Generator[tuple[Batch, Examples], None, None]:
        """The group's share of every step's batch; its leading worker makes it for all."""
        if self.group.leads:
            shares = self.stream.batches(self.step, self.group.number, self.group.count)
            for share in ahead(map(self._examples, shares)):
                yield self.group.handed_out(share, self.device)
        while True:
            yield self.group.handed_out(None, self.device)

    def _count(self, loss: float) -> None:
        """Counts a step that was taken, or skipped by the engine as its gradient was not finite."""
        self.step += 1
        if math.isfinite(self.engine.get_global_grad_norm() or 0.0):
            self.losses.append(loss)
            self.skipped_running = 0
        else:
            self.skipped += 1
            self.skipped_running += 1

    def _divergence(self) -> str:
        first = self.step - MOST_SKIPPED + 1
        return (
            f"The gradients of steps {first:,} to {self.step:,} were not finite, and none of these steps was taken: "
            "look at the data of these steps and at the loss before them, lower optimizer.learning_rate, and start "
            "again, which goes on from the last checkpoint."
        )

    def _examples(self, batch: Batch) -> tuple[Batch, Examples]:
        seed = self.config.data.seed
        drawn = noise(seed, batch.keys, batch.latents.shape[1:])
        return batch, Examples.of(batch, drawn, sigmas(seed, batch.keys, self.config.noise))

    def train_step(self, examples: Examples) -> tuple[float, bool]:
        """One step; the loss of the whole batch, and whether this was the last step."""
        set_learning_rate(self.engine, learning_rate(self.step, self.config.steps, self.config.optimizer))
        total = torch.zeros((), device=self.device)
        for part, weight in self._micro_batches(examples):
            with self.watch.timed("forward"):
                loss = weight * self._item_losses(part).sum() / self.config.data.batch_size
            with self.watch.timed("backward"):
                # DeepSpeed takes the mean over the workers, where the batch's mean needs the sum.
                self.engine.backward(loss * self.workers, scale_wrt_gas=False)
            with self.watch.timed("optimiser"):
                self.engine.step()
            total += loss.detach()
        ends = self.rank == 0 and (self._time_is_over() or self._is_told_to_stop())
        asks = self.rank == 0 and time.monotonic() - self.asked >= ASK_EVERY_S
        due = self.rank == 0 and time.monotonic() - self.saved >= 60 * self.config.record.checkpoint_minutes
        loss_of_all, stop, self.asks, self.due = self._summed(
            total.item() / self.group.size, float(ends), float(asks), float(due)
        )
        return loss_of_all, stop > 0

    def _notices(self) -> bool:
        """Whether Ray announces for the first time that a machine will be taken away; the same on all workers."""
        if not self.asks:
            return False
        self.asked, noticed = time.monotonic(), self.noticed
        self.noticed = ray.train.get_preemption_info() is not None
        return self.noticed and not noticed

    def _is_told_to_stop(self) -> bool:
        """Whether the file is there that ends a training; a bucket is asked once a second at most."""
        if not self.output.local and time.monotonic() - self.looked < ASK_EVERY_S:
            return False
        self.looked = time.monotonic()
        try:
            return self.output.exists(STOP_FILE)
        except StorageFaultError:
            return False

    def _time_is_over(self) -> bool:
        return time.monotonic() - self.started > 60 * self.config.minutes

    def _micro_batches(self, examples: Examples) -> Iterator[tuple[Examples, float]]:
        """Micro-batches on the device, equally many on every worker; one without items is an item of weight 0."""
        size = self.config.engine.micro_batch_size
        for first in range(0, self.passes * size, size):
            part = examples[first : first + size]
            yield (part if len(part) else examples[:1]).to(self.device), float(len(part) > 0)

    def _item_losses(self, examples: Examples) -> torch.Tensor:
        weight = self.config.loss.person_weight
        return velocity_losses(self.engine, self.prediction, self.dtype, examples, weight)

    def _summed(self, *numbers: float) -> list[float]:
        """The numbers summed up over the workers."""
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    @torch.no_grad()
    def _validate(self) -> None:
        """The validation loss at each of the fixed noise levels, always with the same noise, and its 95 % interval.

        The interval is what the clips that were drawn leave open: the mean of others lies within so much of it.
        """
        row: dict[str, float] = {}
        with self.watch.timed("validation"):
            for level in self.config.noise.validation_levels:
                parts = [self._validation_loss(share, level) for share in self.validation]
                loss, square, items = (sum(column) for column in zip(*parts, strict=True))
                mean, square = loss / items, square / items
                error = math.sqrt(max(0.0, square - mean**2) / max(1, items - 1))
                row |= {f"validation/{level:g}": mean, f"validation_interval/{level:g}": 1.96 * error}
        if self.log:
            self.log.write(self.step, row)
            print(validation_line(row), flush=True)

    def _validation_loss(self, share: ValidationShare, level: float) -> list[float]:
        """Sums over the items of a validation batch: their losses, these squared, and how many they are."""
        batch, own = share
        drawn = noise(self.config.data.seed, batch.keys, batch.latents.shape[1:])
        total = square = 0.0
        for part, weight in self._micro_batches(
            Examples.of(batch, drawn, torch.full((len(batch.keys),), level))
        ):
            losses = self._item_losses(part) * (weight if own else 0.0)
            total += losses.sum().item()
            square += losses.square().sum().item()
        return self._summed(*(part / self.group.size for part in (total, square, own)))

    def _save(self, last: bool = False) -> None:
        """Gathers the state, which all workers do together; the first one writes it while training goes on."""
        self.saved_step, self.saved = self.step, time.monotonic()
        if self.log:
            self.log.send()
        with self.watch.timed("checkpoint"):
            state = gather_state(self.trained, keep=self.rank == 0)
            position = Position(self.step, fingerprint(self.config, self.stream, self.step), self.skipped)
            saved = Saved(position, state, self.lora, self.frozen) if self.rank == 0 else None
            every = self.config.record.sample_every
            due = self.rank == 0 and every and self.step % every == 0
            samples = self.samples if due else None
            report(self.config.output, saved, self.step, partial(self._sample, self.step, last, samples))

    def _sample(self, step: int, last: bool, samples: Batch | None, checkpoint: str) -> None:
        """Starts sample videos of a finished checkpoint where they are due; the tasks would end with this worker."""
        if samples is not None:
            self.sampling.append(sample_later(self.config, samples, checkpoint, step))
        if last and self.sampling:
            ray.wait(self.sampling, num_returns=len(self.sampling))

    def _log(self, batch: Batch) -> None:
        now, steps = time.monotonic(), self.step - self.logged_step
        seconds, self.last = (now - self.last) / steps, now
        loss = sum(self.losses) / len(self.losses) if self.losses else math.nan
        row = {"seconds/step": seconds} | ({"loss": loss} if self.losses else {})
        row |= self.watch.take(steps) | self._speed(batch, seconds)
        norm = float(self.engine.get_global_grad_norm() or 0.0)
        row |= {"gradient_norm": norm} if math.isfinite(norm) else {}
        row["skipped_steps"] = float(self.skipped)
        (row["replaced_clips"],) = self._summed(float(self.replaced))
        row["learning_rate"] = learning_rate(self.step - 1, self.config.steps, self.config.optimizer)
        self.losses, self.logged_step, self.replaced = [], self.step, 0
        if self.log:
            gpus = self.config.gpus(self.workers)
            if gpus:
                row["gpu_hours"] = self.log.gpu_hours + gpus * (now - self.started) / 3600
            self.log.write(self.step, row)
            left = min(
                (self.config.steps - self.step) * (now - self.started) / (self.step - self.first_step),
                60 * self.config.minutes - (now - self.started),
            )
            rate = self.config.data.batch_size / seconds
            line = progress_line(self.step, self.config.steps, rate, loss, max(0.0, left))
            print(line + gpu_line(row, gpus * max(0.0, left) / 3600), flush=True)

    def _speed(self, batch: Batch, seconds: float) -> dict[str, float]:
        """Tokens a second, share of the devices' peak where it is known, and memory in GB, of this worker."""
        frames, height, width = batch.latents.shape[2:]
        size = 4 * (frames - 1) + 1, 8 * height, 8 * width
        items = self.config.data.batch_size
        row = {"tokens_per_second": items * sum(tokens(self.model_config, *size)) / seconds}
        if self.device.type == "cpu":
            return row | {"memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}
        row["memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        if peak := peak_flops(torch.cuda.get_device_name(self.device)):
            image_tokens = 0 if batch.image is None else batch.image.shape[1]
            own = Pass(self.model_config, *size, items, batch.text.shape[1], image_tokens)
            flops = flops_per_training_step(own)
            row["mfu"] = flops / seconds / (peak * self.workers)
        return row


def load_transformer(config: TrainConfig, device: torch.device) -> PoseGenTransformer3DModel:
    """The frozen transformer with an adapter to be trained, its blocks set up for training."""
    data, dtype = config.data, getattr(torch, config.engine.precision)
    transformer = load_model(
        data.model,
        data.adapter,
        config.adapter,
        device,
        dtype,
        data.seed,
        data.hands,
        config.engine.fp8_base,
        config.engine.blocks_to_swap,
    )
    set_up_blocks(transformer, config.engine)
    return transformer


def ahead(items: Iterator[Any]) -> Generator[Any, None, None]:
    """The same items, each made by a thread while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items)
        while True:
            item = following.result()
            following = pool.submit(next, items)
            yield item

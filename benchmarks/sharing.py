"""What sharing the background costs: a pass of one denoising step without it, with it, and by the authors' formula.

    python benchmarks/sharing.py [--tokens 1536 3072 6144] [--rounds 8]

The network has the proportions of the 14B model at 720p, in small: of five blocks the last one shares, as of its 40
blocks 8 do (full-body framing), and attention takes most of the time. All variants see the same inputs, record and
foreground. The authors' formula attends twice with all queries and builds its mask of all pairs of tokens on the CPU;
their second output projection and what they write to disk are left out. Rounds are interleaved; a ratio is the median
over rounds. Times are CPU seconds of this process, which other work on the machine disturbs least. Memory is what a
pass adds to a process that holds the model, its inputs and the record. The last line is one JSON object. A block of
full width on a GPU is measured by `benchmarks/gpu.py`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from posegen.model.attention import Attend, Gather, Project, Sharing
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.sharing import (
    AnchorReader,
    AnchorRecorder,
    GivenForeground,
    Position,
    SharedRange,
    SharedRecord,
)

BLOCKS, SHARED_BLOCKS = 5, 1
LATENTS = 16
FRAMES = 7  # latent frames; the tokens grow with the picture
Variants = dict[str, Callable[[], torch.Tensor]]


@dataclass(frozen=True)
class AuthorsReader:
    """Two passes over all queries and a mask of all pairs, for one video at a time."""

    shared: SharedRange
    foreground: torch.Tensor  # (tokens,) bool, of both segments
    record: SharedRecord

    def __call__(self, index: int) -> AuthorsBlock | None:
        place = Position(0, index, "guided")
        return AuthorsBlock(self, place) if place in self.shared else None


@dataclass(frozen=True)
class AuthorsBlock:
    reader: AuthorsReader
    place: Position

    def self_attention(
        self, query: torch.Tensor, hidden_states: torch.Tensor, project: Project, attend: Attend
    ) -> torch.Tensor:
        own = attend(query, *project(hidden_states))
        count, person = query.shape[1], self.reader.foreground
        index = person.nonzero().squeeze(1).cpu()
        mask = torch.zeros(count, count, dtype=query.dtype)
        mask[index[:, None], index] = -torch.inf
        key, value = (tensor.transpose(1, 2) for tensor in self.reader.record.get(self.place).tensors)
        other = torch.nn.functional.scaled_dot_product_attention(
            query.transpose(1, 2), key, value, attn_mask=mask.to(query.device)
        )
        return torch.where(person[:, None, None], own, other.transpose(1, 2))

    def cross_attention(self, query: torch.Tensor, key: torch.Tensor, gather: Gather) -> None:
        """The foreground is given."""


def person_mask(frames: int, rows: int, columns: int) -> torch.Tensor:
    """(1, video tokens): an upright ellipse that sways from frame to frame and covers about a quarter of each."""
    frame, row, column = torch.meshgrid(*map(torch.arange, (frames, rows, columns)), indexing="ij")
    middle = columns * (0.5 + 0.1 * torch.sin(frame.float()))
    inside = ((column - middle) / (0.22 * columns)) ** 2 + ((row - 0.55 * rows) / (0.4 * rows)) ** 2 < 1
    return inside.flatten()[None]


def readers(
    shared: SharedRange, person: torch.Tensor, count: int, record: SharedRecord
) -> dict[str, Sharing]:
    """The passes that read, ours and the authors'; `count` is of all tokens."""
    ours = AnchorReader(shared, GivenForeground(person), record).at(0, "guided")
    joint = torch.nn.functional.pad(person[0], (0, count - person.shape[1]))
    assert ours is not None
    return {"shared": ours, "authors": AuthorsReader(shared, joint, record)}


def small_step(count: int) -> tuple[Variants, int]:
    """A pass through the small network with about `count` tokens, by variant; and how many tokens they are."""
    torch.manual_seed(0)
    model = PoseGenTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=64,
        text_dim=64,
        freq_dim=64,
        ffn_dim=346,  # 2.7 times the width, as in the 14B model
        num_layers=BLOCKS,
        image_dim=None,
        added_kv_proj_dim=None,
        hand_channels=None,
    ).eval()
    columns = max(2, round((count / (FRAMES + 1) / 1.78) ** 0.5))
    rows = round(1.78 * columns)
    person, count = person_mask(FRAMES, rows, columns), (FRAMES + 1) * rows * columns
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(1, 2 * LATENTS + 4, FRAMES, 2 * rows, 2 * columns),
        "timestep": torch.tensor([900.0]),
        "encoder_hidden_states": torch.randn(1, 64, 64),
        "reference_latents": torch.randn(1, LATENTS, 1, 2 * rows, 2 * columns),
    }
    everywhere, record = SharedRange(range(1), range(BLOCKS)), SharedRecord()
    recorder = AnchorRecorder(everywhere, GivenForeground(person), record)
    other = inputs | {"hidden_states": torch.randn_like(inputs["hidden_states"])}
    model(**other, sharing=recorder.at(0, "guided"))
    some = readers(SharedRange(range(1), range(BLOCKS - SHARED_BLOCKS, BLOCKS)), person, count, record)
    all_blocks = readers(everywhere, person, count, record)["shared"]
    passes: dict[str, Sharing | None] = {"plain": None, **some, "all blocks shared": all_blocks}

    def run(sharing: Sharing | None) -> torch.Tensor:
        return model(**inputs, sharing=sharing).sample

    return {name: partial(run, sharing) for name, sharing in passes.items()}, count


def cpu_seconds(run: Callable[[], torch.Tensor]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def measure(
    variants: Variants, rounds: int, seconds: Callable[[Callable[[], torch.Tensor]], float]
) -> dict[str, list[float]]:
    """Seconds of each round by variant; the variants take turns, each round in another order."""
    for run in variants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in variants}
    order = deque(variants)
    for _ in range(rounds):
        for name in order:
            times[name].append(seconds(variants[name]))
        order.rotate()
    return times


def over_plain(times: dict[str, list[float]], name: str) -> float:
    return statistics.median(mine / plain for mine, plain in zip(times[name], times["plain"], strict=True))


def added_bytes(run: Callable[[], torch.Tensor]) -> int:
    """How far a run lifts the peak of resident memory, in a forked process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        before = resident("VmRSS")
        with torch.inference_mode():
            run()
        sender.send(resident("VmHWM") - before)

    process = context.Process(target=child)
    process.start()
    added = receiver.recv()
    process.join()
    return added


def resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1536, 3072, 6144], help="about so many")
    parser.add_argument("--rounds", type=int, default=8, help="for the most tokens; more for fewer")
    options = parser.parse_args()
    torch.set_num_threads(
        1
    )  # more would slow one another down, and a pool of threads does not survive a fork
    ratios: dict[str, list[float]] = {"shared": [], "authors": [], "all blocks shared": []}
    print(f"{'tokens':>6} {'variant':18} {'seconds':>8} {'over plain':>10} {'memory, MiB':>11}")
    for wanted in options.tokens:
        variants, count = small_step(wanted)
        memory = {name: added_bytes(run) for name, run in variants.items()}
        torch.testing.assert_close(variants["shared"](), variants["authors"](), rtol=1e-4, atol=1e-4)
        rounds = options.rounds * max(options.tokens) // wanted
        times = measure(variants, rounds, cpu_seconds)
        for name, values in times.items():
            ratio = over_plain(times, name)
            if name in ratios:
                ratios[name].append(ratio)
            row = f"{statistics.median(values):8.3f} {ratio:10.3f} {memory[name] / 2**20:11.1f}"
            print(f"{count:6} {name:18} {row}", flush=True)
    figures: dict[str, Any] = {
        f"{name.replace(' ', '_')}_over_plain": round(max(values), 3) for name, values in ratios.items()
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

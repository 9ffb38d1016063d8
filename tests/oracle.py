"""Hold the transformer and the shared background against outputs of the authors' code: `python tests/oracle.py FILE`.

The file is a safetensors file of one small model: its weights in the published names, inputs of two segments, and what
the authors' code made of them. Prints a line for each output with its relative error (norm of the difference over the
norm); the last line is `max_rel_err=...`. Ends with status 1 above 1e-5.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from posegen.model.attention import Sharing
from posegen.model.checkpoints import diffusers_name, transformer_config
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.sharing import (
    AnchorReader,
    AnchorRecorder,
    Branch,
    Form,
    GivenForeground,
    Position,
    SharedRange,
    SharedRecord,
    SubjectForeground,
)

LIMIT = 1e-5


@dataclass(frozen=True)
class Oracle:
    """One file: tensors by name, and what its metadata says."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]

    @classmethod
    def open(cls, path: Path) -> Oracle:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a dict
            return cls(tensors, file.metadata())

    def setting(self, name: str):
        return json.loads(self.metadata[name])

    def model(self) -> PoseGenTransformer3DModel:
        weights = {
            diffusers_name(name.removeprefix("weights.")): value
            for name, value in self.tensors.items()
            if name.startswith("weights.")
        }
        model = PoseGenTransformer3DModel(**transformer_config(self.setting("config")))
        model.load_state_dict(weights)
        return model.eval()

    def run(
        self,
        model: PoseGenTransformer3DModel,
        segment: str,
        sharing: Sharing | None = None,
        text: str | None = None,
    ) -> torch.Tensor:
        """The model's output for segment `anchor` or `base`, under its own text or that of `text`."""
        given = {
            name: self.tensors[f"{segment}.{name}"]
            for name in ("x", "cond_latents", "timestep", "clip_feature", "ref", "hand_latents")
        }
        return model(
            torch.cat([given["x"], given["cond_latents"]], dim=1),
            given["timestep"],
            self.tensors[f"{text or segment}.context"],
            given["clip_feature"],
            reference_latents=given["ref"],
            hand_latents=given["hand_latents"] if model.config.hand_channels else None,
            sharing=sharing,
        ).sample

    def shared(self) -> SharedRange:
        blocks = self.setting("blocks")
        return SharedRange(range(len(self.setting("steps"))), range(blocks[0], blocks[-1] + 1))

    def subject(self) -> SubjectForeground:
        frames, height, width = self.tensors["base.x"].shape[2:]
        grid = frames, height // 2, width // 2
        return SubjectForeground(self.setting("subject_tokens"), grid, self.setting("mask_blocks"))


def compare(path: Path) -> Iterator[tuple[str, float]]:
    """Name and relative error of every output that the file holds, with both forms of the record."""
    oracle = Oracle.open(path)
    model = oracle.model()
    step = oracle.setting("step")

    def error(name: str, output: torch.Tensor) -> tuple[str, float]:
        expected = oracle.tensors[name]
        return name, float((output - expected).norm() / expected.norm())

    yield error("plain.anchor", oracle.run(model, "anchor"))
    yield error("plain.base", oracle.run(model, "base"))
    forms: tuple[Form, ...] = ("key_value", "input")
    for form in forms:
        record = record_anchor(oracle, model, form)
        if form == "key_value":
            for block in oracle.setting("blocks"):
                place = Position(step, block, "guided")
                for letter, tensor in zip("kv", record.get(place).tensors, strict=True):
                    yield error(f"kv.step{step}.block{block}.{letter}", tensor.flatten(2))
        for name, output in read_base(oracle, model, record):
            name, relative = error(name, output)
            yield f"{name} ({form})", relative


def record_anchor(oracle: Oracle, model: PoseGenTransformer3DModel, form: Form) -> SharedRecord:
    record = SharedRecord()
    recorder = AnchorRecorder(oracle.shared(), oracle.subject(), record, form)
    branches: tuple[tuple[Branch, str], ...] = (("guided", "anchor"), ("unguided", "negative"))
    for branch, text in branches:
        oracle.run(model, "anchor", recorder.at(oracle.setting("step"), branch), text)
    return record


def read_base(
    oracle: Oracle, model: PoseGenTransformer3DModel, record: SharedRecord
) -> Iterator[tuple[str, torch.Tensor]]:
    step = oracle.setting("step")
    reader = AnchorReader(oracle.shared(), oracle.subject(), record)
    yield "shared.base", oracle.run(model, "base", reader.at(step, "guided"))
    yield "shared.base_negative", oracle.run(model, "base", reader.at(step, "unguided"), "negative")
    everything_shared = SharedRecord(
        {
            place: type(entry)(entry.tensors, torch.zeros_like(entry.foreground))
            for place, entry in record.entries.items()
        }
    )
    nowhere = GivenForeground(torch.zeros(1, record_tokens(record), dtype=torch.bool))
    reader = AnchorReader(oracle.shared(), nowhere, everything_shared)
    yield "shared_nomask.base", oracle.run(model, "base", reader.at(step, "guided"))


def record_tokens(record: SharedRecord) -> int:
    return next(iter(record.entries.values())).foreground.shape[1]


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    worst = 0.0
    for name, relative in compare(parser.parse_args().file):
        print(f"{name:40} {relative:.2e}")
        worst = max(worst, relative) if relative == relative else float("inf")
    print(f"max_rel_err={worst:.3e}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())

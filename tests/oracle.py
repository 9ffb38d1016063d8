"""Hold our arithmetic against outputs of the authors' code: `python tests/oracle.py FILE`.

The file is a safetensors file of one small model: its weights in the published names, inputs, and what the authors'
code made of them. There are files of single passes (the transformer and the shared background) and of the whole
inference (`end_to_end*.safetensors`, see `testkit.authors`). Prints a line for each fact with its relative error (norm
of the difference over the norm); the last line is `max_rel_err=...`. Ends with status 1 where one is over its limit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

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
from testkit.authors import CONDITIONS, Fact, Oracle, compare_base, compare_bridge, compare_pictures


class Passes(Oracle):
    """A file of single passes of a segment `anchor` and of another one, `base`."""

    def model(self) -> PoseGenTransformer3DModel:
        weights = {
            diffusers_name(name.removeprefix("weights.")): value.float()
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
            name: self.tensors[f"{segment}.{name}"].float()
            for name in ("x", "cond_latents", "timestep", "clip_feature", "ref", "hand_latents")
        }
        return model(
            torch.cat([given["x"], given["cond_latents"]], dim=1),
            given["timestep"],
            self.tensors[f"{text or segment}.context"].float(),
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


def compare(path: Path) -> Iterator[Fact]:
    """Every fact that the file holds."""
    names = Oracle.open(path).tensors
    if "clip.picture" in names:
        return compare_pictures(path)
    if "bridge.frames" in names:
        return compare_bridge(path)
    if "base.frames" in names:
        return compare_base(path)
    return compare_passes(path)


def compare_passes(path: Path) -> Iterator[Fact]:
    """Single passes, with both forms of the record."""
    opened = Oracle.open(path)
    oracle = Passes(opened.tensors, opened.metadata)
    model = oracle.model()
    step = oracle.setting("step")

    yield oracle.fact("plain.anchor", oracle.run(model, "anchor"), CONDITIONS)
    yield oracle.fact("plain.base", oracle.run(model, "base"), CONDITIONS)
    forms: tuple[Form, ...] = ("key_value", "input")
    for form in forms:
        record = record_anchor(oracle, model, form)
        if form == "key_value":
            for block in oracle.setting("blocks"):
                place = Position(step, block, "guided")
                for letter, tensor in zip("kv", record.get(place).tensors, strict=True):
                    yield oracle.fact(f"kv.step{step}.block{block}.{letter}", tensor.flatten(2), CONDITIONS)
        for name, output in read_base(oracle, model, record):
            yield replace(oracle.fact(name, output, CONDITIONS), name=f"{name} ({form})")


def record_anchor(oracle: Passes, model: PoseGenTransformer3DModel, form: Form) -> SharedRecord:
    record = SharedRecord()
    recorder = AnchorRecorder(oracle.shared(), oracle.subject(), record, form)
    branches: tuple[tuple[Branch, str], ...] = (("guided", "anchor"), ("unguided", "negative"))
    for branch, text in branches:
        oracle.run(model, "anchor", recorder.at(oracle.setting("step"), branch), text)
    return record


def read_base(
    oracle: Passes, model: PoseGenTransformer3DModel, record: SharedRecord
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
    worst, within = 0.0, True
    for fact in compare(parser.parse_args().file):
        print(f"{fact.name:40} {fact.error:.2e}  (at most {fact.limit:.0e})", flush=True)
        worst = max(worst, fact.error) if fact.error == fact.error else float("inf")
        within = within and fact.error <= fact.limit
    print(f"max_rel_err={worst:.3e}")
    return int(not within)


if __name__ == "__main__":
    raise SystemExit(main())

"""Settings of a training, as configurations and from the command line."""

from __future__ import annotations

import operator
import re
from typing import Any

import pytest

from testkit import ROOT
from training.config import CONFIGS
from training.train import parse


def test_every_configuration_is_complete_and_says_its_machines() -> None:
    for description, config in CONFIGS.values():
        assert config.data.batch_size >= config.cluster.max_workers // config.cluster.context_parallel
        assert "CPU" in description or "GPU" in description
    assert CONFIGS["wan14b_720p_zero3"][1].engine.zero_stage == 3
    bundled = ROOT / CONFIGS["mini_cpu"][1].data.model
    assert (bundled / "model_index.json").exists()


@pytest.mark.parametrize(
    ("arguments", "path", "expected"),
    [
        ("--optimizer.learning_rate 3e-4", "optimizer.learning_rate", 3e-4),
        ("--data.sizes 32 48 48 32", "data.sizes", ((32, 48), (48, 32))),
        ("--data.scores blur 0.2 None", "data.scores", {"blur": (0.2, None)}),
        ("--cluster.min_workers None", "cluster.min_workers", None),
        ("--data.adapter cond", "data.adapter", "cond"),
        ("--data.batch_size 2 --data.batch_size 3", "data.batch_size", 3),
        ("--output 2024", "output", "2024"),
        ("--engine.compile", "engine.compile", True),
    ],
)
def test_one_value_is_changed_by_its_path(arguments: str, path: str, expected: Any) -> None:
    config = parse(["mini_cpu", *arguments.split()])
    assert operator.attrgetter(path)(config) == expected
    assert config.adapter == CONFIGS["mini_cpu"][1].adapter


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "mini_cpu, wan1b_480p, wan14b_480p"),
        ("wan", "Unrecognized options: wan"),
        ("mini_cpu --optimizer.speed 1", "Unrecognized options: --optimizer.speed"),
        ("mini_cpu --steps many", "Error parsing --steps"),
        ("mini_cpu --data.adapter bridge", r"invalid choice 'bridge' .*'base', 'cond'"),
        ("mini_cpu --data.frames 16", r"give lengths of 4k \+ 1"),
        ("mini_cpu --record.checkpoint_every 15", "must be a multiple of record.log_every, which is 10"),
        ("mini_cpu --cluster.max_workers 99", "99 workers cannot share data.batch_size 4"),
        (
            "mini_cpu --cluster.max_workers 4 --cluster.context_parallel 8",
            "must be multiples of cluster.context_parallel, which is 8",
        ),
        (
            "wan14b_480p_fp8 --engine.zero_stage 3",
            r"engine\.fp8_base does not work with engine\.zero_stage 3",
        ),
        ("wan14b_480p_swap --engine.zero_stage 3", r"engine\.fp8_base does not work with"),
        ("wan14b_480p_zero3 --engine.blocks_to_swap 4", r"blocks_to_swap works neither with .*zero_stage 3"),
        ("wan14b_480p_swap --engine.compile", r"blocks_to_swap works neither with .*engine\.compile"),
        ("wan14b_480p_zero3 --engine.compile", r"engine\.compile does not work with engine\.zero_stage 3"),
    ],
)
def test_a_wrong_setting_is_refused_in_a_sentence(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(arguments.split())
    printed = capsys.readouterr()
    assert refused.value.code == 2 and not printed.out
    sentence = " ".join(printed.err.replace("│", " ").split())
    assert re.search(words, sentence), sentence


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["mini_cpu", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    settings = re.findall(r"(?<= --)([a-z_]+(?:\.[a-z_]+)*) [A-Z{\[]", text)
    assert {"steps", "data.augmentation.scale", "record.sample_gpus"} <= set(settings)
    assert not re.search(r"--[a-z_.]+ [A-Z]+( [A-Z]+)* \(default", text), "a setting without a word about it"

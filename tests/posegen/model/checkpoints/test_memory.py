"""Peak memory of loading and converting published folders, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from testkit.published_folders import TINY, published_shapes, tiny_published

MEASURE = """
import sys
from pathlib import Path
from posegen.model.checkpoints import convert_published, load_published
from posegen.model.transformer import PoseGenTransformer3DModel

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024

def peak(work, *arguments):
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    model = work(*arguments)
    for parameter in model.parameters() if model else ():
        parameter.sum()  # a mapped page counts once it is read
    return status("VmHWM") - before

warm_up, base, cond, output = map(Path, sys.argv[1:])
convert_published(warm_up, warm_up, None, output / "warm")  # libraries import the rest of themselves on first use
PoseGenTransformer3DModel.from_pretrained(output / "warm" / "transformer")
print(peak(load_published, base))
print(peak(convert_published, base, cond, None, output / "converted"))
print(peak(PoseGenTransformer3DModel.from_pretrained, output / "converted" / "transformer"))
"""


def write_large(root: Path) -> int:
    """Two published folders, `base` and `cond`, that share their frozen weights; returns the bytes of a model."""
    settings = TINY | {"dim": 512, "ffn_dim": 2048, "num_heads": 4, "num_layers": 13}
    shapes = published_shapes(settings, rank=8)
    own = {name for name in shapes if "lora" in name or "patch_embedding" in name}
    frozen = {name: torch.rand(shape) for name, shape in shapes.items() if name not in own}
    for folder in (root / "base", root / "cond"):
        folder.mkdir()
        (folder / "model_config.json").write_text(json.dumps(settings))
        torch.save({name: torch.rand(shapes[name]) for name in own}, folder / "adapter.bin")
    torch.save(frozen, root / "base" / "frozen.bin")
    (root / "cond" / "frozen.bin").hardlink_to(root / "base" / "frozen.bin")
    return sum(path.stat().st_size for path in (root / "base").glob("*.bin"))


def test_peak_memory_is_that_of_one_model(tmp_path: Path) -> None:
    """All resident pages count, also those of mapped files, which the kernel could drop at any time."""
    model = write_large(tmp_path)
    arguments = map(str, [tiny_published(tmp_path / "tiny"), tmp_path / "base", tmp_path / "cond", tmp_path])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True
    )
    ratios = [int(peak) / model for peak in done.stdout.split()]
    print(f"peak over model ({model / 1e6:.0f} MB): load, convert, load converted", ratios)
    assert model > 250e6
    assert max(ratios) < 1.2

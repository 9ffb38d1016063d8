"""Files of every format that people have of Wan: error of the output, size of the file, memory of the loaded model.

    python benchmarks/formats.py

A random model of 6 blocks, 768 wide, is written in each format. Errors are relative, in float32, against the model that
was written; memory is that of a fresh process which loads the file as it is and reads every tensor once, mapped pages
included. LoRA files of the same values are compared with the model into which those values are merged.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import tyro
from diffusers import WanTransformer3DModel
from gguf import GGMLQuantizationType

from posegen.model.checkpoints import load_lora, load_single_file
from posegen.model.transformer import PoseGenTransformer3DModel
from testkit.gguf_files import write_gguf
from testkit.lora_files import (
    ALPHA,
    RANK,
    WITH_ALPHA,
    distillation_file,
    merged,
    random_differences,
    random_matrices,
    with_differences,
)
from testkit.single_files import (
    linear_modules,
    original_tensors,
    output,
    quantised,
    relative_error,
    tiny_wan,
    write,
)

HEADS, LAYERS = 6, 6
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2

Writer = Callable[[WanTransformer3DModel, Path], Path]


def write_plain(wan: WanTransformer3DModel, folder: Path, dtype: torch.dtype) -> Path:
    tensors = {name: tensor.to(dtype) for name, tensor in original_tensors(wan).items()}
    return write(folder / "wan.safetensors", tensors)


def write_scaled(
    wan: WanTransformer3DModel, folder: Path, dtype: torch.dtype, blocks: tuple[int, int] = (0, 0)
) -> Path:
    """Linears of blocks in 8 bits, the rest in bfloat16, as such files are."""
    stored, scales = quantised(original_tensors(wan), linear_modules(wan), dtype, blocks)
    rest = {name: part.bfloat16() for name, part in stored.items() if part.dtype == torch.float32}
    said = {f"{module}.weight_scale": scale for module, scale in scales.items()}
    return write(folder / "wan.safetensors", stored | rest | said)


def write_quantised(wan: WanTransformer3DModel, folder: Path, kind: str) -> Path:
    path = folder / "wan.gguf"
    write_gguf(path, original_tensors(wan), linear_modules(wan), GGMLQuantizationType[kind])
    return path


FORMATS: dict[str, Writer] = {
    "float32": partial(write_plain, dtype=torch.float32),
    "bfloat16": partial(write_plain, dtype=torch.bfloat16),
    "float16": partial(write_plain, dtype=torch.float16),
    "fp8 e4m3, one scale": partial(write_scaled, dtype=E4M3),
    "fp8 e4m3, a scale a row": partial(write_scaled, dtype=E4M3, blocks=(1, 0)),
    "fp8 e4m3, a scale a block of 128": partial(write_scaled, dtype=E4M3, blocks=(128, 128)),
    "fp8 e5m2, one scale": partial(write_scaled, dtype=E5M2),
    "int8, a scale a row": partial(write_scaled, dtype=torch.int8, blocks=(1, 0)),
    **{
        f"GGUF {kind}": partial(write_quantised, kind=kind)
        for kind in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0")
    },
}


def main() -> None:
    """Writes and loads each format, prints a table, then one JSON object."""
    wan = tiny_wan(HEADS, LAYERS)
    expected = output(PoseGenTransformer3DModel.from_wan(wan))
    print(f"{'file':34} {'error':>9} {'size, MB':>9} {'memory, MB':>11} {'peak, MB':>9}")
    formats: dict[str, dict[str, float]] = {}
    for name, writer in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = writer(wan, Path(folder))
            resident, peak = memory(path)
            found = {
                "relative_error": relative_error(output(load_single_file(path, torch.float32)), expected),
                "file_mb": path.stat().st_size / 1e6,
                "resident_mb": resident / 1e6,
                "peak_mb": peak / 1e6,
            }
        formats[name] = found
        error, *sizes = found.values()
        print(f"{name:34} {error:9.1e} {sizes[0]:9.1f} {sizes[1]:11.1f} {sizes[2]:9.1f}")
    print(f"\n{'LoRA':34} {'error':>9}")
    loras = dict(lora_errors(wan))
    for name, error in loras.items():
        print(f"{name:34} {error:9.1e}")
    print(json.dumps({"formats": formats, "loras": loras}))


def memory(path: Path) -> tuple[int, int]:
    """Bytes that a file's transformer takes once it is loaded, and at most while it is loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["posegen.model.checkpoints", "gguf"])
    with context.Pool(1) as pool:
        return pool.apply(load_and_measure, (path,))


def load_and_measure(path: Path) -> tuple[int, int]:
    load_single_file(path)  # libraries import the rest of themselves on first use
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    transformer = load_single_file(path)
    for tensor in [*transformer.parameters(), *transformer.buffers()]:
        # A mapped page counts once it is read.
        tensor.as_subclass(torch.Tensor).flatten().view(torch.uint8)[:: mmap.PAGESIZE].sum()
    return status("VmRSS") - before, status("VmHWM") - before


def status(field: str) -> int:
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def lora_errors(wan: WanTransformer3DModel) -> Iterator[tuple[str, float]]:
    """For each spelling of a LoRA file the error against merged weights."""
    matrices, differences = random_matrices(wan), random_differences(wan)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = output(PoseGenTransformer3DModel.from_wan(merged(fresh(), matrices, ALPHA / RANK)))
        for spelling, writer in WITH_ALPHA.items():
            yield spelling, lora_error(writer(matrices, folder / spelling), expected)
        whole = with_differences(merged(fresh(), matrices, 1.0), differences, 1.0)
        expected = output(PoseGenTransformer3DModel.from_wan(whole))
        path = distillation_file(matrices, differences, folder)
        yield "without alpha, whole differences", lora_error(path, expected)


def fresh() -> WanTransformer3DModel:
    return tiny_wan(HEADS, LAYERS)


def lora_error(path: Path, expected: torch.Tensor) -> float:
    transformer = PoseGenTransformer3DModel.from_wan(fresh())
    load_lora(transformer, path, "lora")
    return relative_error(output(transformer), expected)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

"""How a model is put on a machine, decided in one place: which devices, in which precision, what is offloaded.

The command line, the server's generators, training's samples and the estimate of `--dry-run` all ask a `Placement`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import diffusers
import torch
import transformers
from diffusers.models.attention_dispatch import attention_backend

from posegen.distributed.group import Group
from posegen.distributed.progress import STUCK_S
from posegen.model.backends import BACKENDS, Attention, check_attention
from posegen.model.offloading import offload_blocks
from posegen.model.scaled_linear import use_fp8_products
from posegen.pipeline import PoseGenPipeline
from posegen.sharing import HostRecord, SharedRecord
from posegen.source import ModelSource

Dtype = Literal["float32", "bfloat16"]
Offload = Literal["none", "parts", "blocks"]
RecordPlace = Literal["host", "device"]

HEADROOM = 1.1
"""How much more of a card must be free than is estimated: CUDA's context, workspaces and gaps come on top."""


@dataclass(frozen=True)
class Placement:
    """Where a pipeline lies and computes.

    device: of torch's names. dtype: of the transformer and the encoders; Wan's VAE loses detail in half precision, so
    it is float32 always. processes: how many denoise together, each with the whole transformer, on GPUs of their own
    from the first on or all on the CPU. record: where what the anchor keeps lies; on the host its
    copies run beside the computation. tiling: whether the VAE works in tiles. offload: what lies on the host until it
    computes: nothing, whole parts (text encoder, transformer, VAE), or the transformer too, block by block, the next
    one on its way while one computes. attention: by which kernels. compile: whether blocks are compiled, all by the
    same code, when the first of them runs. overlap: whether a GPU decodes a segment while it denoises the next one.
    """

    device: str
    dtype: Dtype
    processes: int = 1
    record: RecordPlace = "host"
    tiling: bool = False
    offload: Offload = "none"
    attention: Attention = "torch"
    compile: bool = False
    overlap: bool = False

    @classmethod
    def here(
        cls,
        device: str | None = None,
        dtype: Dtype | None = None,
        processes: int = 1,
        record: RecordPlace = "host",
        tiling: bool = False,
        offload: Offload = "none",
        attention: Attention = "torch",
        compile: bool = False,
        overlap: bool = False,
    ) -> Placement:
        """On this machine: by default on its GPU in bfloat16, or on the CPU in float32.

        Raises ValueError, a sentence, for what this machine does not have.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        _require_device(device)
        if processes > 1 and (offload == "parts" or device not in ("cuda", "cpu")):
            raise ValueError(
                "Several processes take the first GPUs, and offload block by block or nothing: leave the device and "
                "--offload parts out."
            )
        if offload != "none" and device == "cpu":
            raise ValueError("There is nothing to offload from a CPU: leave offloading out, or choose a GPU.")
        if compile and processes > 1:
            raise ValueError("Several processes do not compile: leave compiling or the other processes out.")
        if overlap and (offload == "parts" or device == "cpu"):
            raise ValueError(
                "Decoding beside denoising needs both on a GPU: leave out --overlap, or --offload parts and the CPU."
            )
        check_attention(attention, device)
        dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
        # A CPU has no other memory than the host's, so nothing is to be copied.
        record = "device" if device == "cpu" else record
        return cls(device, dtype, processes, record, tiling, offload, attention, compile, overlap)

    @property
    def itemsize(self) -> int:
        """Bytes of a number of the transformer."""
        return getattr(torch, self.dtype).itemsize

    def device_memory(self) -> int | None:
        """Bytes of the device's memory; None where that is the host's."""
        device = torch.device(self.device)
        return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None

    def smaller(self) -> list[Placement]:
        """This placement and those that take less of the device's memory, the fastest first.

        Of these only the given one may decode beside denoising.
        """
        if self.device == "cpu":
            return list(dict.fromkeys([self, replace(self, tiling=True)]))
        host = replace(self, record="host", overlap=False)
        tiled = replace(host, tiling=True)
        offloads: list[Offload] = ["none", "parts", "blocks"] if self.processes == 1 else ["none", "blocks"]
        ways = [self, replace(self, overlap=False), host, tiled]
        ways += [replace(tiled, offload=offload) for offload in offloads[offloads.index(self.offload) + 1 :]]
        return list(dict.fromkeys(ways))

    def fitted(self, memory: float, peak: Callable[[Placement], int]) -> Placement:
        """The fastest of `smaller` whose peak, in bytes, fits into a device's memory of so many bytes, with headroom.

        Raises ValueError, a sentence, where none does.
        """
        for way in self.smaller():
            if HEADROOM * peak(way) <= memory:
                return way
        least = peak(self.smaller()[-1])
        raise ValueError(
            f"This video takes at least {HEADROOM * least / 1e9:.1f} GB, and the memory is {memory / 1e9:.1f} GB: "
            "choose a smaller --size, a quantised --transformer, or a larger card."
        )

    @property
    def options(self) -> str:
        """The options of the command line that ask for it."""
        asked = ["--record device"] * (self.record == "device") + ["--overlap"] * self.overlap
        asked += ["--tiling"] * self.tiling
        asked += [f"--offload {self.offload}"] * (self.offload != "none")
        asked += [f"--attention {self.attention}"] * (self.attention != "torch")
        return " ".join([*asked, *["--compile"] * self.compile])

    def load(
        self, source: ModelSource, patience: float = STUCK_S, leave_out: Sequence[str] = ()
    ) -> PoseGenPipeline:
        """The model's pipeline, ready to generate.

        leave_out: parts that are not needed, by their names. patience: seconds that a group of processes may take
        without getting on, see `Group`.
        """
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        dtypes = {"default": getattr(torch, self.dtype), "vae": torch.float32}
        pipeline = source.load(dtypes, **dict.fromkeys(leave_out))
        if self.tiling:
            pipeline.vae.enable_tiling()
        if self.attention != "torch":
            # diffusers makes it the default of all other models too, which this undoes.
            with attention_backend(BACKENDS["torch"]):
                pipeline.transformer.set_attention_backend(BACKENDS[self.attention])
        if self.processes > 1:
            pipeline.group = Group(pipeline, self.processes, self.device, self.offload == "blocks", patience)
        if self.offload == "parts":
            pipeline.enable_model_cpu_offload(device=self.device)
        elif self.offload == "blocks":
            offload_pipeline_blocks(pipeline, torch.device(self.device), shared=self.processes > 1)
        else:
            pipeline.to(self.device)
        if source.fp8_products:
            use_fp8_products(pipeline.transformer)  # again, as only now its device is known
        pipeline.decodes_beside = self.overlap
        if self.compile:
            pipeline.transformer.compile_repeated_blocks()
        return pipeline

    def empty_record(self) -> SharedRecord:
        """The record of a video to be made."""
        return HostRecord() if self.record == "host" else SharedRecord()


def offload_pipeline_blocks(pipeline: PoseGenPipeline, device: torch.device, shared: bool = False) -> None:
    """Leaves all parts on the host but the VAE; shared: the transformer is already where its group wants it."""
    for name in (
        ("text_encoder", "image_encoder") if shared else ("transformer", "text_encoder", "image_encoder")
    ):
        if (part := getattr(pipeline, name)) is not None:
            offload_blocks(part, device)
    pipeline.vae.to(device)


def _require_device(name: str) -> None:
    """Raise ValueError unless torch can compute on the device here."""
    there = ["cpu"] + [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    there += ["mps"] if torch.backends.mps.is_available() else []
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not any(str(device) in (known, known.split(":")[0]) for known in there):
        raise ValueError(f"There is no device {name!r} here: choose one of {', '.join(there)}.")

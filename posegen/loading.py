"""How a model folder is put on a machine, decided in one place: which devices, in which precision, what is offloaded.

The command line, the server's generators and the estimate of `--dry-run` all ask a `Placement`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import diffusers
import torch
import transformers

from posegen.distributed.group import TIMEOUT_S, Group
from posegen.pipeline import PoseGenPipeline
from posegen.sharing import SharedRecord
from posegen.source import ModelSource

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Placement:
    """Where a pipeline lies and computes.

    device: of torch's names. dtype: of the transformer and the encoders; Wan's VAE loses detail in half precision, so
    it is float32 always. processes: how many denoise together, each with the whole transformer, on GPUs of their own
    from the first on or all on the CPU. offload: whether only the part that computes is on the device. record_on_host:
    whether what the anchor keeps is in the host's memory. tiling: whether the VAE works in tiles.
    """

    device: str
    dtype: Dtype
    processes: int = 1
    offload: bool = False
    record_on_host: bool = False
    tiling: bool = False

    @classmethod
    def here(
        cls,
        device: str | None = None,
        dtype: Dtype | None = None,
        processes: int = 1,
        offload: bool = False,
        tiling: bool = False,
    ) -> Placement:
        """On this machine: by default on its GPU in bfloat16, or on the CPU in float32.

        Raises ValueError, a sentence, for what this machine does not have.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        _require_device(device)
        if processes > 1 and (offload or device not in ("cuda", "cpu")):
            raise ValueError(
                "Several processes take the first GPUs, each with the whole model: leave offloading and the device out."
            )
        if offload and device == "cpu":
            raise ValueError("There is nothing to offload from a CPU: leave offloading out, or choose a GPU.")
        dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
        return cls(device, dtype, processes, offload, offload, tiling)

    @property
    def itemsize(self) -> int:
        """Bytes of a number of the transformer."""
        return getattr(torch, self.dtype).itemsize

    def load(self, source: ModelSource, timeout: float = TIMEOUT_S) -> PoseGenPipeline:
        """The model's pipeline, ready to generate.

        timeout: seconds that a process waits for another while they denoise together.
        """
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        pipeline = source.load({"default": getattr(torch, self.dtype), "vae": torch.float32})
        if self.tiling:
            pipeline.vae.enable_tiling()
        if self.offload:
            pipeline.enable_model_cpu_offload(device=self.device)
        else:
            pipeline.to(self.device)
        if self.processes > 1:
            pipeline.group = Group(pipeline, source, self.processes, timeout)
        return pipeline

    def record(self) -> SharedRecord:
        """An empty record for a video."""
        return SharedRecord(device=torch.device("cpu") if self.record_on_host else None)


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

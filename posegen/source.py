"""Which model: a folder, what stands in for its transformer, and what goes on top.

Every process that computes with a model loads it from the same `ModelSource`, so all of them hold the same one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from posegen.model.checkpoints import arguments_beyond_wan, load_lora, load_single_file
from posegen.model.scaled_linear import use_fp8_products
from posegen.pipeline import PoseGenPipeline


@dataclass(frozen=True)
class ModelSource:
    """A model.

    folder: of a pipeline, or a repository of the Hugging Face hub. transformer: a single file of plain Wan in place of
    the folder's transformer, see `load_single_file`. loras: files and their strengths, on top of base and cond.
    fp8_products: whether layers of fp8 weights multiply in fp8, see `use_fp8_products`. by_name: LoRA files that only
    jobs have that ask for them, by the names that they ask by, letters, digits, - and _.
    """

    folder: str | Path
    transformer: Path | None = None
    loras: tuple[tuple[Path, float], ...] = ()
    fp8_products: bool = False
    by_name: tuple[tuple[str, Path], ...] = ()

    def load(self, dtype: torch.dtype | dict[str, torch.dtype], **components: Any) -> PoseGenPipeline:
        """The pipeline on the CPU, its adapters loaded; components replace the folder's, None leaves one out.

        dtype: of all parts, or by their names and "default". Raises ValueError or CheckpointError, a sentence.
        """
        if self.transformer is not None:
            own = dtype if isinstance(dtype, torch.dtype) else dtype["default"]
            components["transformer"] = load_single_file(self.transformer, own, **self._beyond_wan())
        pipeline = PoseGenPipeline.from_pretrained(self.folder, dtype=dtype, **components)
        for number, (path, strength) in enumerate(self.loras):
            load_lora(pipeline.transformer, path, f"lora{number}", strength)
        pipeline.loras = {name: f"by-name-{name}" for name, _ in self.by_name}
        for name, path in self.by_name:
            load_lora(pipeline.transformer, path, pipeline.loras[name], switched=True)
        if self.fp8_products:
            use_fp8_products(pipeline.transformer)
        return pipeline

    def _beyond_wan(self) -> dict[str, Any]:
        config = Path(self.folder) / "transformer" / "config.json"
        return arguments_beyond_wan(json.loads(config.read_text())) if config.is_file() else {}

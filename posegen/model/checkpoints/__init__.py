"""Checkpoints in and out: published PoseGen folders, single files of plain Wan, adapters, LoRA files.

Inside, names are diffusers'. Files are safetensors, or pickles read with `weights_only`; what is missing, unknown or of
a wrong shape is a CheckpointError that names file and tensor.
"""

from posegen.model.checkpoints.conversion import convert_published, convert_single_file
from posegen.model.checkpoints.export import export_lora
from posegen.model.checkpoints.lora import (
    EMBEDDINGS,
    Adapter,
    attach_adapter,
    load_adapter,
    model_shapes,
    model_weights,
    read_adapter,
    save_adapter,
    set_adapter,
    set_strengths,
    write_adapter,
)
from posegen.model.checkpoints.lora_file import load_lora, read_lora_file
from posegen.model.checkpoints.names import (
    CheckpointError,
    diffusers_name,
    model_config,
    published_name,
    transformer_config,
)
from posegen.model.checkpoints.published import (
    load_published,
    published_adapter,
    published_tensors,
    read_published,
    save_published,
)
from posegen.model.checkpoints.single_file import arguments_beyond_wan, load_single_file

__all__ = [
    "EMBEDDINGS",
    "Adapter",
    "CheckpointError",
    "arguments_beyond_wan",
    "attach_adapter",
    "convert_published",
    "convert_single_file",
    "diffusers_name",
    "export_lora",
    "load_adapter",
    "load_lora",
    "load_published",
    "load_single_file",
    "model_config",
    "model_shapes",
    "model_weights",
    "published_adapter",
    "published_name",
    "published_tensors",
    "read_adapter",
    "read_lora_file",
    "read_published",
    "save_adapter",
    "save_published",
    "set_adapter",
    "set_strengths",
    "transformer_config",
    "write_adapter",
]

"""The folder of a model: on this machine already, or fetched from the Hugging Face hub, and how it may be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import PipelineQuantizationConfig
from huggingface_hub import metadata_load, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from yaml import YAMLError

INDEX_FILE = "model_index.json"
QUANTISATION = "quantization_config"
FILE_ARGUMENTS = (
    "dtype",
    "torch_dtype",
    "variant",
    "use_safetensors",
    "low_cpu_mem_usage",
    "disable_mmap",
    QUANTISATION,
)
"""diffusers' arguments that say how a pipeline's files become tensors."""


def model_folder(name: str | Path, weights: bool = True, **hub: Any) -> Path:
    """The folder called `name`, or that of the hub's repository `name`, fetched into the hub's cache.

    weights: whether the weights are needed, or the JSON files alone. hub: arguments of `snapshot_download`, such as
    `revision` and `token`. Raises ValueError, a sentence, where there is
    neither, or the folder is not of a pipeline.
    """
    folder = Path(name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(name), allow_patterns=None if weights else "*.json", **hub))
        except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            raise ValueError(
                f"{name} is neither a folder nor a repository of the Hugging Face hub that can be reached; give the "
                "folder of a model."
            ) from error
    if not (folder / INDEX_FILE).is_file():
        raise ValueError(
            f"{folder} has no {INDEX_FILE}; give the folder of a pipeline, in diffusers' layout."
        )
    return folder


def transformer_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What of a pipeline's `FILE_ARGUMENTS` is its transformer's; ValueError for a quantisation of another kind."""
    own = {name: arguments[name] for name in FILE_ARGUMENTS if name in arguments}
    if isinstance(dtype := own.get("dtype"), dict):
        own["dtype"] = dtype.get("transformer", dtype.get("default"))
    if quantisation := own.pop(QUANTISATION, None):
        own[QUANTISATION] = _quantisation_of_transformer(quantisation)
    return own


def _quantisation_of_transformer(quantisation: object) -> object:
    """What a pipeline's quantisation says of its transformer, None where it leaves that as it is.

    Raises ValueError, a sentence, for the configuration of a single part.
    """
    if not isinstance(quantisation, PipelineQuantizationConfig):
        raise ValueError(
            f"quantization_config is a {type(quantisation).__name__}, of one part: put it into diffusers' "
            'PipelineQuantizationConfig, as quant_mapping={"transformer": ...}.'
        )
    return quantisation._resolve_quant_config(is_diffusers=True, module_name="transformer")


def require_one_image_transformer(index: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError for a folder of a pipeline that PoseGen cannot be built on, by its model_index.json."""
    if index.get("transformer_2", [None])[0] is not None:
        raise ValueError(
            f"{folder} is a model of two transformers, like Wan 2.2; give one of PoseGen, or Wan 2.1 image-to-video."
        )
    if "transformer" not in index:
        raise ValueError(
            f"{folder} is a {index.get('_class_name')}, without a transformer; give a PoseGen folder."
        )


def model_summary(folder: Path) -> str:
    """What the model of a folder can do, in a sentence or two: "summary" of its README's metadata, "" without one."""
    card = folder / "README.md"
    try:
        found = metadata_load(card) if card.is_file() else None
    except (ValueError, YAMLError):  # a card for people, whose metadata no program reads
        return ""
    return str((found or {}).get("summary", ""))

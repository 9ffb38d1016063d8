"""CLIP's vision model, which embeds pictures, and the aesthetic head on its embeddings, both the user's own.

Only a run that is given them imports this file, and with it torch and transformers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)

from pipeline.config import CurateConfig
from pipeline.score.embedding import Embed, Embedder
from posegen.common.profiling import timed
from posegen.common.weights import Weight, fetch

HEAD = Weight("sac+logos+ava1-l14-linearMSE.pth")
"""What LAION's head is called where a folder or a hub name is given."""
PUBLISHED_LAYERS = [0, 2, 4, 6, 7]
"""Numbers of the linear layers in https://github.com/christophschuhmann/improved-aesthetic-predictor (Apache-2.0);
those between are dropout, which does nothing here. There are no activations."""


class EmbedderError(ValueError):
    """A model or head cannot be used; the message says which and what to do."""


def make_embedder(config: CurateConfig, embed: Embed | None = None) -> Embedder:
    """The embedder that the configuration asks for. embed: what runs the model, in place of this process.

    Raises EmbedderError or WeightsError.
    """
    assert config.embedder
    vision = _vision_config(config.embedder)
    score = load_head(config.aesthetics, width_of(config.embedder)) if config.aesthetics else None
    return Embedder(
        picture_preparer(config.embedder, vision.image_size), embed or ClipEmbedder(config.embedder), score
    )


def width_of(model: str) -> int:
    """How many numbers a model's embeddings have, by its config.json. Raises EmbedderError."""
    vision = _vision_config(model)
    return int(vision.projection_dim if _is_projected(vision) else vision.hidden_size)


class ClipEmbedder:
    """A CLIP vision model of a folder or a hub name: prepared pictures to embeddings, see `Embed`.

    The embedding is CLIP's own, which pictures and texts share; of a model saved without its projection
    (CLIPVisionModel) it is the pooled output. Raises EmbedderError.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        kind = CLIPVisionModelWithProjection if _is_projected(_vision_config(model)) else CLIPVisionModel
        dtype = torch.float16 if device.startswith("cuda") else torch.float32
        try:
            loaded, found = kind.from_pretrained(model, dtype=dtype, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise EmbedderError(f"{model} cannot be loaded as a CLIP model: {_sentence(error)}") from error
        if missing := sorted([*found["missing_keys"], *found["mismatched_keys"]], key=str):
            raise EmbedderError(
                f"{model} lacks weights of {kind.__name__}, such as {missing[0]}: give the whole folder"
            )
        network: Any = loaded
        self.network, self.device = network.to(device).eval(), device

    @torch.inference_mode()
    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        with timed("model"):
            output = self.network(torch.from_numpy(pictures).to(self.device, self.network.dtype))
            vectors = output.get("image_embeds", output.get("pooler_output")).float()
            unit: np.ndarray = torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()
        return unit


def picture_preparer(model: str, side: int) -> Callable[[np.ndarray], np.ndarray]:
    """What a model sees of a frame (H, W, 3) uint8, as its processor says: (3, side, side) float32.

    The processor lies beside the weights or, as in Wan's folders, in `image_processor` beside the folder. Raises
    EmbedderError.
    """
    place = Path(model)
    beside = place.resolve().parent / "image_processor"
    name = "preprocessor_config.json"
    if place.is_dir() and not (place / name).is_file() and (beside / name).is_file():
        place = beside
    try:
        processor = CLIPImageProcessorPil.from_pretrained(str(place))
    except (OSError, ValueError) as error:
        raise EmbedderError(
            f"{model} has no {name} in it or in image_processor beside it: add the one it was published with "
            f"({_sentence(error)})"
        ) from error

    def prepare(frame: np.ndarray) -> np.ndarray:
        pixels: np.ndarray = processor(images=[frame], return_tensors="np")["pixel_values"][0]
        return pixels

    if prepare(np.zeros((2 * side, 3 * side, 3), np.uint8)).shape != (3, side, side):
        raise EmbedderError(
            f"{model} takes pictures of {side} x {side}, and its {name} makes others: add the one it was published with"
        )
    return prepare


def load_head(source: str, width: int) -> Callable[[np.ndarray], np.ndarray]:
    """Scores (n,) of embeddings (n, width) by the head of a file: LAION's predictor, or a single linear layer.

    The file holds `layers.0.weight` (out, in), `layers.0.bias` (out,) and so on for the layers `PUBLISHED_LAYERS`, or
    one layer, or just `weight` and `bias`. Linear layers without activations between them are one linear layer. Raises
    EmbedderError or WeightsError.
    """
    path = fetch(HEAD, source)
    weight, bias = np.eye(width), np.zeros(width)
    for number, (layer, offset) in enumerate(_layers(path)):
        if layer.ndim != 2 or layer.shape[1] != len(bias) or offset.shape != layer.shape[:1]:
            expected = "the embedder's vectors have" if number == 0 else "the layer before gives"
            raise EmbedderError(
                f"{path}: layer {number + 1} has weights of shape {layer.shape} and a bias of {offset.shape}, and "
                f"{expected} {len(bias)} numbers: give the head that was trained on this --embedder"
            )
        weight, bias = layer @ weight, layer @ bias + offset
    if len(bias) != 1:
        raise EmbedderError(f"{path} gives {len(bias)} numbers where one score is needed: give another head")
    return lambda vectors: np.asarray(vectors @ weight[0] + bias[0])


def _layers(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases, float64, of a head's layers in their order."""
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        arrays = {name: value.double().numpy() for name, value in state.items()}
    except Exception as error:  # whatever the two readers raise, the file is none of theirs
        raise EmbedderError(f"{path} cannot be read as a head's weights: {_sentence(error)}") from error
    if arrays.keys() == {"weight", "bias"}:
        return [(arrays["weight"], arrays["bias"])]
    numbers = sorted({int(found[1]) for name in arrays if (found := re.match(r"layers\.(\d+)\.", name))})
    names = {f"layers.{number}.{kind}" for number in numbers for kind in ("weight", "bias")}
    if arrays.keys() != names or numbers not in ([0], PUBLISHED_LAYERS):
        raise EmbedderError(
            f"{path} holds {', '.join(sorted(arrays)[:4])} and so on, which is not LAION's linear predictor (layers "
            f"{', '.join(map(str, PUBLISHED_LAYERS))}, no activations) nor one linear layer: give such a head"
        )
    return [(arrays[f"layers.{number}.weight"], arrays[f"layers.{number}.bias"]) for number in numbers]


def _vision_config(model: str) -> Any:
    """The vision part of a model's config.json. Raises EmbedderError."""
    try:
        config: Any = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        where = "in that folder" if Path(model).is_dir() else "as a folder or on the hub"
        raise EmbedderError(
            f"no CLIP model could be found under {model!r} {where}; give a folder that holds one ({_sentence(error)})"
        ) from error
    if config.model_type not in ("clip", "clip_vision_model"):
        raise EmbedderError(f"{model} is a {config.model_type} model: give a CLIP vision model")
    return config.vision_config if config.model_type == "clip" else config


def _is_projected(vision: Any) -> bool:
    return bool(vision.architectures != ["CLIPVisionModel"])


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())

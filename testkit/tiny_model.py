"""Makes the folder of a PoseGen pipeline of random weights, small enough to generate a video in a second or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from posegen.driving.skeleton import KEYPOINT_INDEX
from posegen.model.checkpoints import EMBEDDINGS
from posegen.model.transformer import PoseGenTransformer3DModel
from posegen.pipeline import ADAPTERS, PoseGenPipeline

SIZE = (32, 48)
SEGMENT_FRAMES, HEAD, TAIL = 13, 5, 4
STEPS = 2
WORDS = ["<pad>", "</s>", "<unk>", "a", "the", "woman", "man", "dances", "dancing", "many", "waves"]


def tiny_pipeline(**settings: Any) -> PoseGenPipeline:
    """A pipeline of random weights with all inputs: hands, CLIP, text, and both adapters."""
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "segment_frames": SEGMENT_FRAMES,
        "head": HEAD,
        "tail": TAIL,
        "size": SIZE,
        "num_inference_steps": STEPS,
    }
    settings = small | settings
    tokenizer = tiny_tokenizer()
    transformer = tiny_transformer()
    for name in ADAPTERS:
        add_random_adapter(transformer, name)
    return PoseGenPipeline(
        transformer=transformer.eval(),
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(tokenizer),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        image_encoder=tiny_image_encoder(),
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
        **settings,
    )


def tiny_transformer(**config: Any) -> PoseGenTransformer3DModel:
    """Dim 24, three blocks; the zeros in it are random too, so that every input matters."""
    transformer = PoseGenTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        ffn_dim=32,
        text_dim=16,
        freq_dim=16,
        num_layers=3,
        image_dim=16,
        added_kv_proj_dim=24,
        **config,
    )
    for parameter in transformer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return transformer


def add_random_adapter(transformer: PoseGenTransformer3DModel, name: str) -> None:
    """Adds LoRA matrices and whole embeddings of random values."""
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], modules_to_save=[*EMBEDDINGS])
    transformer.add_adapter(config, name)
    for parameter_name, parameter in transformer.named_parameters():
        if f".{name}." in parameter_name:
            parameter.data += torch.randn_like(parameter) * 0.1


def tiny_vae() -> AutoencoderKLWan:
    """Wan's autoencoder with 16 latent channels, its narrowest."""
    return AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of `WORDS`, 8 tokens at most."""
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=8
    )


def tiny_text_encoder(tokenizer: PreTrainedTokenizerFast) -> UMT5EncoderModel:
    """One layer, (B, tokens, 16)."""
    config = UMT5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_heads=2, num_layers=1, dropout_rate=0.0
    )
    return UMT5EncoderModel(config).eval()


def tiny_image_encoder() -> CLIPVisionModel:
    """Two layers, (B, 5, 16) of pictures of 16 pixels."""
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return CLIPVisionModel(config).eval()


def save_tiny_model(folder: Path) -> Path:
    """Writes the pipeline to a folder."""
    tiny_pipeline().save_pretrained(folder)
    return folder


def walking(frames: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Poses (frames, 133, 3) of a whole person who swings arms and legs, in pixels of `size`."""
    body = {
        "nose": (0, -0.42),
        "left_shoulder": (0.09, -0.3),
        "left_elbow": (0.14, -0.15),
        "left_wrist": (0.15, 0.0),
        "left_hip": (0.06, 0.0),
        "left_knee": (0.07, 0.2),
        "left_ankle": (0.07, 0.42),
    }
    poses = np.zeros((frames, 133, 3), np.float32)
    swing = np.sin(np.arange(frames) * 0.5)
    for name, (across, down) in body.items():
        for side, sign in (("left", 1), ("right", -1)):
            joint = poses[:, KEYPOINT_INDEX[name.replace("left", side)]]
            moved = 0.1 * sign * swing * (name.endswith(("wrist", "ankle")))
            joint[:, 0] = (0.5 + sign * across) * size[0] + moved * size[1]
            joint[:, 1] = (0.5 + down) * size[1]
            joint[:, 2] = 1
    return poses


def picture(size: tuple[int, int] = SIZE) -> np.ndarray:
    """A picture (height, width, 3) uint8 of random colours."""
    return np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)


def whole(poses: np.ndarray) -> np.ndarray:
    """Poses with the points that `walking` leaves out at the nearest joint, for drawing."""
    poses = poses.copy()
    poses[:, 1:5, :2] = poses[:, :1, :2] + np.array([[4, -5], [-4, -5], [9, -3], [-9, -3]])
    poses[:, 1:5, 2] = 1
    poses[:, 17:20, :2] = poses[:, 15:16, :2] + np.array([[8, 6], [10, 5], [-3, 6]])
    poses[:, 20:23, :2] = poses[:, 16:17, :2] + np.array([[-8, 6], [-10, 5], [3, 6]])
    poses[:, 23:91, :2] = poses[:, :1, :2]
    poses[:, 91:112, :2], poses[:, 112:, :2] = poses[:, 9:10, :2], poses[:, 10:11, :2]
    return poses

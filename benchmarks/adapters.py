"""An adapter as a training exports it, loaded by the library, by diffusers and by PEFT: largest difference and size.
And what a pass takes with the adapter merged into the weights, over one with it beside them.

    python benchmarks/adapters.py [--model DIR] [--adapter DIR]

The output of the model in training is compared with that of a fresh model into which each of the three has loaded the
exported folder, and with the pipelines' LoRA file for diffusers (`posegen.model.checkpoints.export_lora`). Without
--adapter one with random weights is exported, as a training's checkpoint is; without --model the model is random, of
the mini model's size.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from diffusers import WanTransformer3DModel
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file

from posegen.model.checkpoints import export_lora, load_adapter
from posegen.model.merging import AdapterMerger
from posegen.model.transformer import PoseGenTransformer3DModel
from testkit.tiny_training import CHANNELS, MINI, write_tiny_model
from training.checkpoint import ADAPTER, Position, Saved
from training.config import TrainConfig, mini_cpu
from training.loop import load_transformer
from training.model.adapter import adapter_parameters
from training.step.engine import WEIGHT
from training.step.optimizer import STATES

NAME = "base"
RANK = 6


@torch.no_grad()
def main(model: Path | None = None, adapter: Path | None = None) -> None:
    """Compares and prints a table, then one JSON object.

    Args:
        model: Model folder; a random one by default.
        adapter: Adapter's folder; a random one by default.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        model = model or random_model(scratch / "model")
        trained, folder = exported(model, adapter, scratch / "checkpoint")
        inputs = random_inputs(trained)
        expected = trained(**inputs).sample
        loaded = {
            "posegen": by_library(model, folder),
            "PEFT": by_peft(model, folder),
            "diffusers": by_diffusers(model, folder, scratch / "lora.safetensors"),
        }
        differences = {
            who: (other(**inputs).sample - expected).abs().max().item() for who, other in loaded.items()
        }
        effect = (plain(model)(**inputs).sample - expected).abs().max().item()
        size = sum(path.stat().st_size for path in folder.iterdir())
    merged, error = merging()
    for who, difference in differences.items():
        print(f"loaded by {who:10} largest difference {difference:.2e}")
    print(f"without the adapter     {effect:.2e}")
    print(f"the exported folder     {size / 1e6:.2f} MB")
    print(f"a pass, merged over beside {merged:.3f}, relative difference {error:.1e}")
    found = {"largest_difference": max(differences.values()), "differences": differences}
    found |= {"merged_over_beside": round(merged, 3), "merged_error": error}
    print(json.dumps({**found, "adapters_effect": effect, "megabytes": size / 1e6}))


def merging(rounds: int = 8) -> tuple[float, float]:
    """CPU seconds of a pass with an adapter merged over one with it beside, and how far outputs differ.

    The network is two blocks of a tenth of the 14B model's width in its proportions, the rank a tenth as well; the
    median over rounds that take turns.
    """
    torch.manual_seed(0)
    model = PoseGenTransformer3DModel(
        num_attention_heads=4, num_layers=2, ffn_dim=1382, text_dim=64, image_dim=None, added_kv_proj_dim=None
    ).eval()
    linears = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]
    model.add_adapter(LoraConfig(r=RANK, target_modules=linears), NAME)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.copy_(torch.randn_like(parameter) / 100)
    inputs, merger = random_inputs(model), AdapterMerger()
    inputs |= {
        "hidden_states": torch.randn(1, 36, 5, 24, 24),
        "reference_latents": torch.randn(1, 16, 1, 24, 24),
    }

    def timed() -> tuple[float, torch.Tensor]:
        started = time.process_time()
        made = model(**inputs).sample
        return time.process_time() - started, made

    ratios, error = [], 0.0
    for _ in range(rounds + 1):  # the first one is not counted
        beside, expected = timed()
        with merger.merged(model, [NAME], torch.device("cpu")):
            merged, made = timed()
        ratios.append(merged / beside)
        error = ((made - expected).norm() / expected.norm()).item()
    return statistics.median(ratios[1:]), error


def random_model(folder: Path) -> Path:
    write_tiny_model(folder)
    transformer = WanTransformer3DModel(in_channels=2 * CHANNELS + 4, out_channels=CHANNELS, **MINI)
    transformer.register_to_config(prediction="sample")
    transformer.save_pretrained(folder / "transformer")
    return folder


def exported(model: Path, adapter: Path | None, scratch: Path) -> tuple[Any, Path]:
    """A model as it is in training, with its adapter, and the folder of that adapter."""
    mini = mini_cpu()
    start = str(adapter) if adapter else None
    config: TrainConfig = replace(
        mini, data=replace(mini.data, model=str(model)), adapter=replace(mini.adapter, start=start)
    )
    trained = load_transformer(config, torch.device("cpu")).eval()
    if adapter:
        return trained, adapter
    parameters = adapter_parameters(trained, NAME)
    for parameter in parameters.values():
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
    state = {
        kind: {name: parameter.clone() for name, parameter in parameters.items()}
        for kind in (WEIGHT, *STATES)
    }
    scratch.mkdir()
    Saved(Position(0, ""), state, trained.peft_config[NAME], {}).write(scratch)
    return trained, scratch / ADAPTER


def plain(model: Path) -> PoseGenTransformer3DModel:
    return PoseGenTransformer3DModel.from_pretrained(model, subfolder="transformer").eval()


def by_library(model: Path, folder: Path) -> Any:
    transformer = plain(model)
    load_adapter(transformer, folder, NAME)
    return transformer


def by_peft(model: Path, folder: Path) -> Any:
    return PeftModel.from_pretrained(plain(model), str(folder)).eval()


def by_diffusers(model: Path, folder: Path, file: Path) -> Any:
    """The LoRA part through diffusers' loader; it has no place for the embeddings, which are set by hand."""
    export_lora(folder, file, "diffusers")
    transformer = plain(model)
    embeddings = file.with_name(f"{file.stem}_embeddings.safetensors")
    transformer.load_state_dict(load_file(embeddings), strict=False)
    transformer.load_lora_adapter(str(file.parent), weight_name=file.name, prefix="transformer")
    return transformer


def random_inputs(transformer: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    config = transformer.config
    return {
        "hidden_states": torch.randn(1, config.in_channels, 5, 12, 8),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 32, config.text_dim),
        "reference_latents": torch.randn(1, config.reference_channels, 1, 12, 8),
    }


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)

"""DeepSpeed's ZeRO around the transformer, and the state of what is trained, independent of the number of workers.

The float32 weight, two moments and the EMA of each trained tensor are saved, gathered one tensor at a
time with DeepSpeed's own accessors, which work alike for stages 2 and 3; frozen weights are never gathered. DeepSpeed's
bf16 mode stays off, as it would cast modules that must be float32: ZeRO keeps float32 masters of bf16 weights without
it. Only workers import DeepSpeed, as that takes seconds.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from training.step.optimizer import STATES, EMAAdamW, OptimizerConfig

WEIGHT = "weight"

State = dict[str, dict[str, torch.Tensor]]
"""Tensors by what they are (weight, or one of STATES) and by their names in an adapter's file."""


@dataclass(frozen=True)
class EngineConfig:
    """How the work of a step is done."""

    zero_stage: Literal[2, 3] = 2
    """DeepSpeed's: 2 splits gradients and moments among the workers, 3 the model's weights too."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the model and its activations. Norms, time embedding and modulation stay float32, as do all moments."""
    fp8_base: bool = False
    """Hold the frozen linears of the blocks in fp8 (e4m3, a scale a row), half of bfloat16's bytes; with ZeRO-2."""
    blocks_to_swap: int = 0
    """Blocks whose frozen linears stay in the host's memory and are copied to the device for each product; with ZeRO-2.
    A block of the 14B model takes 0.8 GB there for each worker, 0.4 GB in fp8."""
    micro_batch_size: int = 1
    """Most items that a worker passes through the model at once."""
    gradient_checkpointing: bool = True
    """Keep each block's input only and run it again in the backward pass."""
    offload: bool = False
    """Keep those inputs in the host's memory."""
    reduce_bucket_size: int = 50_000_000
    """Numbers that ZeRO reduces or gathers at once."""
    compile: bool = False
    """Pass each block through torch.compile, with ZeRO-2 only; needs a C++ compiler and a minute at the start."""


def start_engine(
    model: torch.nn.Module, config: EngineConfig, optimizer: OptimizerConfig, passes: int
) -> Any:
    """DeepSpeed's engine on the process group that is there; passes: micro-batches of a step.

    model: on the device, or for ZeRO-3, which moves it there, on the host.
    """
    import deepspeed

    # Its CPU build compiles a C++ extension for a minute that changes no result.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = deepspeed_config(config, optimizer.max_grad_norm, passes)
    if config.zero_stage == 3:
        # Each weight goes to the device and is split there before the next: none ever holds the whole model.
        deepspeed.zero.Init(module=model, config_dict_or_path=settings)
        for buffer in model.buffers():
            buffer.data = buffer.to(deepspeed.get_accelerator().current_device_name())
    engine, *_ = deepspeed.initialize(model=model, optimizer=EMAAdamW(trained, optimizer), config=settings)
    engine.optimizer.check_grad_overflow = True  # ZeRO-2 would take a bf16 step that is not finite
    return engine


def deepspeed_config(config: EngineConfig, max_grad_norm: float, passes: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": sys.maxsize,
        # Summed up over micro-batches in bf16, gradients of another number of workers would be rounded otherwise.
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": config.zero_stage,
            "reduce_bucket_size": config.reduce_bucket_size,
            "allgather_bucket_size": config.reduce_bucket_size,
            "stage3_prefetch_bucket_size": config.reduce_bucket_size,
            "stage3_max_live_parameters": 2 * config.reduce_bucket_size,
            "stage3_max_reuse_distance": 2 * config.reduce_bucket_size,
            "stage3_param_persistence_threshold": 0,
        },
    }


def _optimizer(engine: Any) -> EMAAdamW:
    return engine.optimizer.optimizer


def set_learning_rate(engine: Any, rate: float) -> None:
    for group in _optimizer(engine).param_groups:
        group["lr"] = rate


def gather_state(trained: Mapping[str, torch.nn.Parameter], keep: bool) -> State:
    """The state of all trained tensors on the CPU, empty where not `keep`; all workers must call it together."""
    state: State = {kind: {} for kind in (WEIGHT, *STATES)}
    for name, parameter in trained.items():
        for kind, tensor in _gathered(parameter):
            if keep:
                state[kind][name] = tensor.to("cpu", copy=True)
    return state


def _gathered(parameter: torch.nn.Parameter) -> Iterator[tuple[str, torch.Tensor]]:
    from deepspeed import utils

    yield WEIGHT, utils.safe_get_full_fp32_param(parameter)
    for kind in STATES:
        yield kind, utils.safe_get_full_optimizer_state(parameter, kind)


def restore_state(engine: Any, trained: Mapping[str, torch.nn.Parameter], state: State, step: int) -> None:
    """Give a new engine the state after `step` steps; the model must have got the weights before the engine was made.

    For a bf16 model these are rounded, here the float32 masters get the exact ones.
    """
    from deepspeed import utils

    optimizer, zero = _optimizer(engine), engine.optimizer
    if engine.zero_optimization_stage() == 3:
        optimizer.prepare(zero.fp32_partitioned_groups_flat)
    else:
        optimizer.prepare(zero.single_partition_of_fp32_groups)
        # ZeRO-2 would tie its accessors to the states at its first step, which is too late to restore them.
        for weights, partition in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
            utils.lazy_init_hp_params_optimizer_state(weights, partition, optimizer.state)
    for states in optimizer.state.values():
        states["step"] = torch.tensor(float(step))
    for name, parameter in trained.items():
        device = parameter.device
        utils.safe_set_full_fp32_param(parameter, state[WEIGHT][name].to(device))
        for kind in STATES:
            utils.safe_set_full_optimizer_state(parameter, state[kind][name].to(device), kind)

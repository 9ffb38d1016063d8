"""DeepSpeed's ZeRO around the transformer, and the state of what is trained, free of the number of workers.

Choices made: what is saved of each trained tensor is its float32 weight, two moments and running average, gathered one
tensor at a time with DeepSpeed's own accessors, which work alike for stages 2 and 3; frozen weights are never gathered.
DeepSpeed's bf16 mode stays off, as it would cast modules that must be float32: ZeRO keeps float32 masters of bf16
weights without it. It is imported by workers alone, as that takes seconds.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

import torch

from training.config import TrainConfig
from training.step.muon import Slices
from training.step.optimizer import STATES, AveragingOptimizer

WEIGHT = "weight"

State = dict[str, dict[str, torch.Tensor]]
"""Tensors by what they are (weight, or one of STATES) and by their names in an adapter's file."""


def start_engine(model: torch.nn.Module, config: TrainConfig, passes: int) -> Any:
    """DeepSpeed's engine on the process group that is there; passes: micro-batches of a step."""
    import deepspeed

    # Its CPU build compiles a C++ extension for a minute that changes no result.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if config.optimizer.muon and parameter.ndim == 2]
    others = [parameter for parameter in trained if not (config.optimizer.muon and parameter.ndim == 2)]
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=AveragingOptimizer(others, matrices, config.optimizer),
        config=deepspeed_config(config, passes),
    )
    _optimizer(engine).slices.update(_slices(engine))
    _prepare_states(engine)
    return engine


def _prepare_states(engine: Any) -> None:
    """The optimiser's states before its first step, tied to DeepSpeed's accessors.

    ZeRO-2 would tie them when the first group of weights has taken a step and the others have no state yet.
    """
    optimizer, zero = _optimizer(engine), engine.optimizer
    if engine.zero_optimization_stage() == 3:
        optimizer.prepare(zero.fp32_partitioned_groups_flat)
    else:
        optimizer.prepare(zero.single_partition_of_fp32_groups)
        zero._lazy_init_hp_params_optimizer_state()


def _slices(engine: Any) -> dict[torch.Tensor, Slices]:
    """How the matrices lie in the flat weights that ZeRO has made for its optimiser."""
    zero = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        flat, groups, split = zero.fp32_partitioned_groups_flat, zero.fp16_groups, True
        lengths = [[weight.partition_numel() for weight in group] for group in groups]
        starts = [[0, *accumulate(of_group[:-1])] for of_group in lengths]
    else:
        flat, groups, split = zero.single_partition_of_fp32_groups, zero.bit16_groups, False
        starts = zero.round_robin_bit16_offsets
    shapes = [[tuple(getattr(weight, "ds_shape", weight.shape)) for weight in group] for group in groups]
    return {
        weights: Slices(of_group, begin, split)
        for weights, of_group, begin in zip(flat, shapes, starts, strict=True)
        if all(len(shape) == 2 for shape in of_group)
    }


def deepspeed_config(config: TrainConfig, passes: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": config.engine.micro_batch,
        "gradient_accumulation_steps": passes,
        "gradient_clipping": config.optimizer.clip_norm,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": sys.maxsize,
        "data_types": {"grad_accum_dtype": "fp32" if config.engine.precision == "float32" else "bf16"},
        "zero_optimization": {
            "stage": config.engine.zero_stage,
            "reduce_bucket_size": config.engine.bucket,
            "allgather_bucket_size": config.engine.bucket,
            "stage3_prefetch_bucket_size": config.engine.bucket,
            "stage3_max_live_parameters": 2 * config.engine.bucket,
            "stage3_max_reuse_distance": 2 * config.engine.bucket,
            "stage3_param_persistence_threshold": 0,
        },
    }


def _optimizer(engine: Any) -> AveragingOptimizer:
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

    for partition in _optimizer(engine).state.values():
        partition["step"] = torch.tensor(float(step))
    for name, parameter in trained.items():
        device = parameter.device
        utils.safe_set_full_fp32_param(parameter, state[WEIGHT][name].to(device))
        for kind in STATES:
            utils.safe_set_full_optimizer_state(parameter, state[kind][name].to(device), kind)

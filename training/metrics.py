"""What a training tells beside its log: gauges of Ray, which Prometheus reads with `ray_` before each name."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

TAGS = ("run",)
GAUGES = {
    "loss": Gauge("posegen_training_loss", "Mean loss of the steps since the last row of the log.", TAGS),
    "seconds/step": Gauge("posegen_training_step_seconds", "Seconds a step.", TAGS),
    "tokens_per_second": Gauge("posegen_training_tokens_per_second", "Tokens a second, all workers.", TAGS),
    "memory_gb": Gauge("posegen_training_memory_gb", "Most memory of the first worker, in GB.", TAGS),
    "gradient_norm": Gauge("posegen_training_gradient_norm", "Norm of the last step's gradient.", TAGS),
    "skipped_steps": Gauge("posegen_training_skipped_steps", "Steps without a finite gradient.", TAGS),
}
"""By what the log calls them."""
STEP = Gauge("posegen_training_step", "Steps that were taken.", TAGS)


def tell(run: str, step: int, figures: Mapping[str, float]) -> None:
    """Sets the gauges of a row of the log. run: what tells this training from others of the cluster."""
    STEP.set(step, {"run": run})
    for name, gauge in GAUGES.items():
        if name in figures:
            gauge.set(figures[name], {"run": run})

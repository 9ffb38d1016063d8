"""The Ray cluster that trainings, and what draws datasets for them, run on."""

from __future__ import annotations

import logging

import ray
from ray.data import DataContext


def start_ray() -> None:
    """Joins the cluster that RAY_ADDRESS names or this machine runs, else starts one for the run.

    Each program says itself how far it is, so Ray Data's own reports, which would drown that, are off.
    """
    if not ray.is_initialized():
        ray.init(logging_level=logging.WARNING)
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)

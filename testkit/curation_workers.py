"""The processes in which a cluster plans and scores, for whoever kills them."""

from __future__ import annotations

import psutil


def curation_workers(root: int) -> list[psutil.Process]:
    """The planning and scoring workers of the cluster that process `root` started; none where it has ended."""
    try:
        children = psutil.Process(root).children(recursive=True)
        return [child for child in children if "ray::MapWorker" in child.name() + " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []

"""Plain Wan image-to-video models as other programs keep them: one file, Wan's original names."""

from posegen.model.checkpoints.single_file.loading import load_single_file

__all__ = ["load_single_file"]

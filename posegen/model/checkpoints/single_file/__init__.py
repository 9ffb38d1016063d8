"""Plain Wan image-to-video models as other programs keep them: one file, Wan's original names."""

from posegen.model.checkpoints.single_file.loading import arguments_beyond_wan, load_single_file

__all__ = ["arguments_beyond_wan", "load_single_file"]

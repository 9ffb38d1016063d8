"""LoRA training of a model folder on a curated dataset, on Ray Train with DeepSpeed."""

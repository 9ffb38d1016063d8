"""One training step: noise, objective, optimizer, DeepSpeed engine."""

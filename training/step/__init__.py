"""One training step.

- `noise.py`, `objective.py`: noise levels, and the loss; `optimizer.py`: AdamW with an EMA;
- `engine.py`: DeepSpeed around the model; `blocks.py`: blocks with less memory, or compiled.
"""

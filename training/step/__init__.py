"""One training step.

- `noise.py`, `objective.py`: noise levels, and the loss; `optimizer.py`: AdamW with an EMA;
- `engine.py`: DeepSpeed around the model; `groups.py`: workers that share an item's sequence;
- `blocks.py`: blocks with less memory, or compiled.
"""

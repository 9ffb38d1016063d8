"""The dataset as a stream of training items.

- `items.py`: the settings and one batch; `stream.py`: batches step by step; `sampler.py`: which items a step sees;
- `prepare.py`, `selection.py`, `spans.py`, `frames.py`, `cache.py`: clips are chosen, encoded once and kept;
- `batches.py`, `augment.py`: what is made anew for every step: batches, and changes of their poses.
"""

"""The dataset as a stream of training items.

- `items.py`: the settings and one batch; `stream.py`: batches step by step;
- `tables.py`, `index.py`: the curated tables, and the clips of them that can be trained on;
- `sampler.py`, `plan.py`: which items a step sees, and what each is made of; `augment.py`: how its pose is changed;
- `frames.py`, `spans.py`, `batches.py`: from a clip's video to encoded spans, and from these to items;
- `cache.py`: encoded spans that are kept; `encoders.py`: the Ray actors that encode ahead.
"""

"""Captions of kept clips.

`captioner.py` turns clips into records by a model of `posegen.captions`, `vllm.py` by Ray Data's vLLM stage, `own.py`
reads those that people already have; captions without a model are in `pipeline.score`.
"""

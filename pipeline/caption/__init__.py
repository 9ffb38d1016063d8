"""Captions of kept clips by a vision-language model.

`captioner.py` turns clips into records, with `posegen.captions` as the model; captions without a model are in
`pipeline.score`.
"""

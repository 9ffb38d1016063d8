"""Clips to scores. Nothing is judged here.

- `scorer.py`: one clip from decoding to its record; `quality.py`: all measures of picture and motion at once;
- `measures.py`, `distinct.py`, `text.py`, `explicit.py`, `duplicates.py`, `embedding.py`: those measures;
- `embedder.py`: the model behind the embedding, and the head on it; `semantic.py`: which clips show the same by it;
- `person.py`, `evidence.py`, `faces.py`: who is in a clip, and whether other networks agree;
- `looks.py`: when networks are asked, and what a count of their answers is worth;
- `composed_caption.py`: a caption composed from what was measured.
"""

"""The finished tables: `write.py` joins plans and scores, judges them and writes `clips/` and `media/`."""

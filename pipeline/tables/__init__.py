"""The finished tables, from records to files.

- `join.py`: plan and scores of a group of videos as rows;
- `verdicts.py`: thresholds, near duplicates, captions and cut clips applied to them;
- `shards.py`, `write.py`: how the tables are divided into files, and writing those that are new;
- `media.py`: where a kept clip's own video lies.
"""

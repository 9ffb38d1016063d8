"""What has been done, so that a rerun does only what is missing.

`journal.py` keeps one file for each finished video and clip, `attempts.py` counts how often each was tried.
"""

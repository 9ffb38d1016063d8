"""Evaluating a folder of generated videos.

`config.py` has the settings, `listing.py` finds the files of each video, `worker.py` measures one video a task,
`summary.py` writes what all of them add up to.
"""

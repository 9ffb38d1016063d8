"""Videos to clips.

`listing.py` finds the files, `source.py` fetches one, `shots.py` finds where shots begin and end, `planner.py` makes
clips of them.
"""

"""Videos to clips.

`listing.py` finds the files, `shots.py` where shots begin and end, `planner.py` makes clips of them.
"""

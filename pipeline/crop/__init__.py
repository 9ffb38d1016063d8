"""Crops: of a clip that shows two or three people, a clip of each who can be shown alone.

- `tracks.py`: who is where in each frame;
- `planner.py`: which window shows one of them and nobody else, from boxes alone;
- `cropper.py`: both for a clip of a video, and writing a crop as a video of its own.
"""

"""What the server's workers do: they claim tasks from the database, do them and publish the results, without Ray.

- `loop.py`: the loop of every worker;
- `prepare.py`, `preparation.py`, `sound.py`: uploads become poses, a plan and a soundtrack;
- `generate.py`, `records.py`, `anchor_store.py`: segments, and the anchor's record between them;
- `stitch.py`, `fragments.py`, `growing.py`: the video, encoded and shown while it grows.
"""

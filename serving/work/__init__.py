"""What the server's workers do: they claim tasks from the database, do them and publish the results.

- `loop.py`: the loop of every worker; `metrics.py`: what it tells Prometheus;
- `prepare.py`, `preparation.py`: uploads become poses, a soundtrack and a plan;
- `generate.py`, `records.py`, `anchor_store.py`: segments, and the anchor's record between them (the last uses Ray);
- `stitch.py`, `fragments.py`, `growing.py`: the video, encoded and shown while it grows.
"""

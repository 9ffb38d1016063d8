"""LoRA training of a model folder on a curated dataset, on Ray Train with DeepSpeed.

- `train.py`: the command line and Ray Train's trainer; `config.py`: settings and configurations; `cluster.py`: Ray;
- `loop.py`: what each worker does; `dataset_versions.py`: which clips it sees; `output.py`: the folder or bucket it
  writes to; `checkpoint.py`, `log.py`, `metrics.py`, `trackers.py`, `sample_videos.py`: what it writes and tells;
- `costs.py`, `memory.py`: what it will take, told before it starts;
- `speedrun.sh`: from raw video to a sample video of one's own, in one go;
- `data/`: the dataset as a stream of items; `model/`: what is trained and what is frozen; `step/`: one training step.
"""

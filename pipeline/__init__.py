"""Curation: a folder of raw video becomes a training set, on Ray Data; and the evaluation of a folder of made videos.

- `curate.py`: the job, top to bottom; `config.py`: its settings;
- `workers.py`, `vllm_workers.py`, `feeds.py`: what Ray Data runs;
- `gpus.py`: networks on GPUs, in processes of their own;
- `groups.py`, `tasks.py`: the rows while the job runs; `semantic.py`: which of them show the same;
- `journals.py`: the records it keeps; `metrics.py`: what it tells Prometheus;
- `estimate.py`: what a job would take, before it runs;
- `plan/`, `score/`, `caption/`: videos become clips, clips get scores, kept clips get captions;
- `crop/`: clips of each of several people;
- `verdict.py`: which clips are kept; `tables/`, `report/`: what is written at the end;
- `records/`: what is already done; `sample_videos.py`: videos for a first run.
- `export.py`: the kept clips in the layouts of other trainers;
- `evaluate.py`, `evaluating/`: the job that measures made videos.
"""

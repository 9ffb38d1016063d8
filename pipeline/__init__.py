"""Curation: a folder of raw video becomes a training set, on Ray Data. `curate.py` is the job."""

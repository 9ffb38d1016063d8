"""The model of a training: `adapter.py` is what is trained, `frozen.py` what stays frozen."""

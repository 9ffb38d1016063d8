"""The PoseGen method as a library: torch and numpy, no Ray. Every part works in a notebook.

pipeline: a picture and a driving video -> a video. source, loading: which model, and how it is put on a machine.
estimate, costs: what a video will take. cli, commands: the command line. dataset: curated tables for training.
driving/: the driving video's poses, drawn and aligned. longvideo/: segments, what each is conditioned on, denoising.
model/: the transformer and its checkpoints. sharing/: the shared background. distributed/: a segment on several GPUs.
video/: files in and out. mini/: the bundled model. common/: storage, weights, progress.
"""

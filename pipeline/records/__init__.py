"""What has been done, one file for each video and clip, so that a rerun does only what is missing."""

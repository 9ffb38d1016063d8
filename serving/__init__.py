"""One long video over many GPUs, on Ray Serve. Not built yet: curation comes first."""

"""One long video over many GPUs, on Ray Serve: an HTTP endpoint, a queue in a database, workers that claim from it."""

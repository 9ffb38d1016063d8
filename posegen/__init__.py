"""The PoseGen method as a library: torch and numpy, no Ray. Every part works in a notebook."""

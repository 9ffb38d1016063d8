"""The HTML report of a curation."""

"""Scores to verdicts, and the finished tables."""

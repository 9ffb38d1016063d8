"""Clips to scores: poses, how many people, quality, clothing. Nothing is judged here."""

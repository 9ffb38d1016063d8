"""Captions: composed from what was measured, or written by Qwen2.5-VL."""

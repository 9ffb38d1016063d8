"""What tests and benchmarks share: tiny models, made videos, real servers."""

from pathlib import Path

ROOT = Path(__file__).parent.parent  # of the checkout

"""The parts that only the mini model has: its video codec and its tokenizer."""

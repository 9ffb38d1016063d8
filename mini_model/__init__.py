"""What makes the bundled mini model: drawn people, pretraining, the recipe, the bundle."""

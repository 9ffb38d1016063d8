"""The dataset as a stream of training items: spans, latents, augmentation, order."""

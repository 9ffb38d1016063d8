"""A video of any length: its segments, what each is conditioned on, how one is denoised, how they are joined."""

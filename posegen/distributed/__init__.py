"""Several processes of one machine that denoise a segment together."""

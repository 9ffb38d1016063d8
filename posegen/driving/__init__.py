"""The driving video: whose pose it shows in each frame, and how that pose is drawn and aligned to the picture."""

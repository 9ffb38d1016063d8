"""Small videos with sound, and what is heard of them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def sounding(path: Path, seconds: float, delay: float = 0.0, rate: int = 44100) -> Path:
    """A video of 3 s whose sound, a tone, begins after `delay` and lasts `seconds`."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        sound = container.add_stream("aac", rate=rate, layout="mono")
        for _ in range(30):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        tone = np.sin(np.arange(round(seconds * rate)) * 0.06).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
        frame.sample_rate, frame.pts = rate, round(delay * rate)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def heard(path: Path) -> np.ndarray:
    """The samples (n,) of a file's left channel."""
    with av.open(str(path), "r") as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])

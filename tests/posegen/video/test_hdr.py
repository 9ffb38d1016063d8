"""High dynamic range comes out as a standard display would show it, by the formulae of BT.2100."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from posegen.video import probe, read_frames
from posegen.video.hdr import to_standard

PQ, HLG, SDR = 16, 18, 1
BT2020 = 9
# Linear red, green and blue of BT.709 in BT.2020's primaries (BT.2087-0, table 2).
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
LUMA = np.array([0.2627, 0.6780, 0.0593])


def pq(light: np.ndarray) -> np.ndarray:
    power = (light / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(light: np.ndarray) -> np.ndarray:
    """The signal that a display of 1000 cd/m2 shows as this light."""
    scene = light / 1000 * (LUMA @ light / 1000) ** (1 / 1.2 - 1)
    bright = 0.17883277 * np.log(np.maximum(12 * scene, 1) - 0.28466892) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


def write(path: Path, signal: np.ndarray, transfer: int) -> Path:
    """A video of one colour, (3,) red, green and blue 0..1, as 10-bit YUV of BT.2020."""
    luma = float(LUMA @ signal)
    blue, red = (signal[2] - luma) / 1.8814, (signal[0] - luma) / 1.4746
    levels = [round(64 + 876 * luma), round(512 + 896 * blue), round(512 + 896 * red)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"qp": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        stream.colorspace, stream.color_primaries, stream.color_trc = BT2020, BT2020, transfer
        stream.color_range = 1
        frame = av.VideoFrame(64, 48, "yuv420p10le")
        frame.pts, frame.time_base = 0, Fraction(1, 30)
        for plane, level in zip(frame.planes, levels, strict=True):
            plane.update(np.full(plane.buffer_size // 2, level, np.uint16).tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("transfer", "name", "signal_of"), [(PQ, "pq", pq), (HLG, "hlg", hlg)])
@pytest.mark.parametrize("light", [(80, 80, 80), (80, 10, 5), (5, 60, 20), (10, 15, 70), (1, 1, 1)], ids=str)
def test_light_of_the_standard_range_stays(tmp_path: Path, transfer, name, signal_of, light):
    path = write(tmp_path / "a.mkv", signal_of(TO_BT2020 @ np.array(light, float)), transfer)
    info = probe(path)
    assert info.hdr == name
    expected = 255 * (np.array(light) / 203) ** (1 / 2.4)
    for size in (None, (32, 24)):
        got = next(read_frames(info, [0], size))[0, 12, 16]
        np.testing.assert_allclose(got, expected, atol=6)


def test_what_is_brighter_is_compressed_and_keeps_its_order_and_hue():
    levels = np.round(65535 * pq(np.array([0, 50, 90, 203, 400, 1000, 4000.0]))).astype(np.uint16)
    greys = to_standard(np.repeat(levels[None, :, None], 3, axis=2), "pq")[0]
    assert np.all(np.ptp(greys, axis=1) <= 1)
    shown = greys[:, 0].tolist()
    assert shown == sorted(shown) and shown[0] == 0 and 215 < shown[3] < 245 and shown[-2:] == [255, 255]
    orange = to_standard(np.round(65535 * pq(np.array([[[800, 400, 100.0]]]))).astype(np.uint16), "pq")[0, 0]
    assert orange[0] > 240 and orange[0] > orange[1] + 40 > orange[2] + 80


def test_standard_video_is_left_alone(tmp_path: Path):
    path = write(tmp_path / "a.mkv", np.array([0.5, 0.5, 0.5]), SDR)
    info = probe(path)
    assert info.hdr is None
    assert abs(int(next(read_frames(info, [0]))[0, 0, 0, 0]) - 128) <= 2

"""The report and the command, on a driving video that is evaluated as if it had been generated."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from posegen.cli import main
from posegen.evaluation.inputs import Inputs
from posegen.evaluation.measure import MEASUREMENTS, Measured
from posegen.evaluation.plot import curve_plot
from posegen.evaluation.report import markdown
from posegen.video import probe, read_frames
from testkit import ROOT

DANCE = ROOT / "serving/page/samples/dance.mp4"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frame of the driving video."""
    path = tmp_path_factory.mktemp("picture") / "person.png"
    first = next(iter(read_frames(probe(DANCE), [0])))[0]
    cv2.imwrite(str(path), first[..., ::-1])
    return path


def test_a_video_that_is_its_own_truth_is_perfect(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--reference", str(picture), "--driving", str(DANCE), "--truth", str(DANCE)]
    made = ["--align", "none", "--segments", "33", "5", "4"]
    main(["evaluate", str(DANCE), *files, *made, "--output", str(tmp_path)])
    assert f"report: {tmp_path}/report.html" in capsys.readouterr().out
    table = pq.read_table(tmp_path / "measurements.parquet")
    assert table.schema.equals(MEASUREMENTS)
    values: dict[str, list[float]] = {}
    for row in table.to_pylist():
        if row["video"] == "dance":
            values.setdefault(row["metric"], []).append(row["value"])
    assert np.isinf(values["psnr"]).all()
    assert np.allclose(values["ssim"], 1) and np.allclose(values["perceptual"], 0)
    assert np.allclose(values["identity_truth"], 0) and np.allclose(values["background_truth"], 0)
    assert np.nanmean(values["oks_body"]) > 0.9  # the same estimator in both
    assert np.nanmean(values["missed"]) < 0.2
    assert len(values["seam_difference_begin"]) == 2  # 84 frames are three segments
    page = (tmp_path / "report.html").read_text()
    assert page.count("<video ") == 3 and page.count("data:video/mp4;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing beside it is needed
    assert "It drove the video too" in page
    assert "silhouette IoU was not measured" in page
    assert "PSNR, dB" in (tmp_path / "summary.md").read_text()


def test_what_is_not_there_is_said_in_a_sentence(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "none.mp4")
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", missing, "--reference", str(picture), "--driving", str(DANCE)])
    assert stopped.value.code == 2
    assert "none.mp4: no such file" in capsys.readouterr().err


def test_silhouettes_without_a_background_are_refused() -> None:
    with pytest.raises(ValueError, match="give both"):
        Inputs(DANCE, DANCE, DANCE, silhouettes=DANCE)


def test_a_plot_has_a_gap_where_nothing_was_measured() -> None:
    svg = curve_plot({"a < b": np.array([1.0, 2.0, np.nan, 3.0])})
    assert svg.count("<polyline") == 2
    assert "a &lt; b" in svg and "a < b" not in svg
    assert "nothing to draw" in curve_plot({"none": np.array([np.nan, np.inf])})


def test_a_table_leaves_out_what_no_video_has() -> None:
    one = Measured("one", 24, 12.0, {"psnr": np.array([20.0, 22.0])})
    other = Measured("other", 24, 12.0, {"psnr": np.array([30.0, 30.0]), "face": np.array([np.nan, np.nan])})
    assert markdown([one, other]) == "|  | one | other |\n| --- | --- | --- |\n| PSNR, dB | 21 | 30 |\n"

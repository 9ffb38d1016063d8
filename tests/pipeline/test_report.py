"""The report: its figures against small tables counted by hand, and that the file is whole, safe and repeatable."""

from __future__ import annotations

import base64
import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from pipeline.report.contact_sheet import (
    PICTURES,
    SECOND_PERSON,
    spread,
    spread_over_groups,
    with_box,
    with_skeleton,
)
from pipeline.report.histograms import MOST_BINS, bin_edges, histograms
from pipeline.report.write import clock, write_report
from pipeline.verdict import Rule, Thresholds
from posegen.common.progress import Stage
from posegen.common.storage import Folder
from posegen.dataset import CLIPS, FAILED, KEPT, REJECTED, pack_keypoints, table
from posegen.driving.drawing import BODY_LINKS
from posegen.driving.skeleton import KEYPOINT_INDEX

STAGES = [Stage("list", 9, "files", 0.5), Stage("score", 1200, "clips", 600.0)]
WIDTH, HEIGHT = 640, 480


class Page(HTMLParser):
    """What a reader finds in the report: text by section, table rows by section, tags with their attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.section = ""
        self.text: dict[str, str] = {"": ""}
        self.rows: dict[str, list[list[str]]] = {"": []}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._cell: list[str] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "h2":
            self.section = dict(attrs)["id"] or ""
            self.text[self.section], self.rows[self.section] = "", []
        if tag == "tr":
            self.rows[self.section].append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.rows[self.section][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text[self.section] += data
        if self._cell is not None:
            self._cell.append(data)

    def said(self, section: str) -> str:
        return " ".join(self.text[section].split())

    def row(self, section: str, name: str) -> list[str]:
        return next(cells[1:] for cells in self.rows[section] if cells[0] == name)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def thresholds() -> Thresholds:
    rules = (
        Rule("one_person", min=0.975),
        Rule("blur", max=0.7, when_missing="pass"),
        Rule("brightness", min=0.1, max=0.9),
    )
    return Thresholds(rules, near_duplicate_bits=0)


def preview(level: int = 128) -> bytes:
    return cv2.imencode(".jpg", np.full((240, 320, 3), level, np.uint8))[1].tobytes()


def standing(frames: int = 3) -> np.ndarray:
    """Keypoints (frames, 133, 3) of a person whose right forearm is all that is seen, in the last frame only."""
    keypoints = np.full((frames, 133, 3), np.nan, np.float32)
    keypoints[-1] = 0
    keypoints[-1, KEYPOINT_INDEX["right_elbow"]] = (100, 240, 1)
    keypoints[-1, KEYPOINT_INDEX["right_wrist"]] = (500, 240, 1)
    return keypoints


def spent(**seconds: float) -> list[dict[str, Any]]:
    """The CPU seconds of these steps as a row holds them."""
    return [{"step": step, "seconds": took} for step, took in seconds.items()]


def clip(number: int, reasons: list[str] | None = None, **columns: Any) -> dict[str, Any]:
    """A scored clip of 6 s: rejected where there are reasons."""
    return {
        "clip_id": f"{number:024x}",
        "path": f"film {number % 5}.mp4",
        "start": 10.0,
        "stop": 16.0,
        "rate": 30.0,
        "width": WIDTH,
        "height": HEIGHT,
        "status": REJECTED if reasons else KEPT,
        "reasons": reasons or [],
        "one_person": 1.0,
        "blur": 0.3,
        "brightness": 0.5,
        "framing": "half-body",
        "motion": "still",
        "subject": "person",
        "caption": f"A person, number {number}.",
        "preview": preview(),
        "preview_frame": 2,
        **pack_keypoints(standing()),
        "scored_by": "blazepose",
        "cpu_seconds": spent(all=4.0, decode=1.0, model=2.5, pose=2.0),
        **columns,
    }


def failed(number: int, stage: str, message: str, **columns: Any) -> dict[str, Any]:
    error = {"error_stage": stage, "error_type": "VideoError", "error_message": message}
    return {
        "clip_id": f"{number:024x}",
        "path": f"bad {number}.mp4",
        "status": FAILED,
        "reasons": [],
        **error,
        **columns,
    }


def mixed_rows() -> list[dict[str, Any]]:
    """4 kept; 2 rejected by one_person (1 by blur as well), 1 by blur, 1 copy, 1 look-alike; 3 failed; 7 files."""
    return [
        clip(0),
        clip(1, framing="close-up", stop=31.5),
        clip(2, framing=None, subject="woman"),
        clip(3, motion="walking", blur=None),
        clip(4, ["one_person: 0.5 is below 0.975"], one_person=0.5),
        clip(5, ["one_person: 0.9 is below 0.975", "blur: 0.8 is above 0.7"], one_person=0.9, blur=0.8),
        clip(6, ["blur: 0.9 is above 0.7"], blur=0.9),
        clip(7, ["duplicate_file: same content as film: 1.mp4"], cpu_seconds=spent(all=1000.0)),
        clip(8, ["near_duplicate: looks like clip 0"]),
        failed(9, "probe", "bad 9.mp4 holds no video"),
        failed(10, "score", "its worker died", start=61.5, stop=65.0, path="film 0.mp4"),
        failed(11, "probe", "bad 11.mp4 is empty"),
    ]


def report(folder: Path, thresholds: Thresholds, rows: list[dict[str, Any]], part: int = 5) -> str:
    """Writes the rows as parts of a table, and the report; returns its text."""
    output = Folder(str(folder))
    for first in range(0, len(rows), part):
        rows_of_part = table(rows[first : first + part], CLIPS)
        output.write_table(f"clips/part-{first:05}.parquet", rows_of_part, row_group_size=2)
    write_report(output, thresholds, STAGES)
    return output.read("report.html").decode()


def test_headline_says_what_was_kept_of_what(tmp_path: Path, thresholds: Thresholds) -> None:
    said = Page(report(tmp_path, thresholds, mixed_rows())).said("")
    assert "40 s in 4 clips kept, of 73 s in 10 clips from 7 files" in said
    figures = ("4 kept", "5 rejected", "1 failed clips", "2 failed files")
    for figure in figures:
        number, name = figure.split(" ", 1)
        assert re.search(rf"{name}\s*{number}\b", said), figure
    assert thresholds.hash in said


def test_what_no_detector_measured_is_said_once(tmp_path: Path, thresholds: Thresholds) -> None:
    page = Page(report(tmp_path, thresholds.without("unsafe"), [clip(1), clip(2)]))
    assert page.said("funnel").count("unsafe was not measured") == 1
    assert "was not measured" not in report(tmp_path, thresholds, [clip(1)])


def test_funnel_loses_each_clip_once_and_ends_at_the_kept(tmp_path: Path, thresholds: Thresholds) -> None:
    page = Page(report(tmp_path, thresholds, mixed_rows()))
    assert page.row("funnel", "files listed")[:3] == ["", "", "7"]
    assert page.row("funnel", "files read")[:3] == ["", "2", "5"]
    clips = page.rows["funnel"][4:]
    assert [cells[:4] for cells in clips] == [
        ["clips planned", "", "", "10"],
        ["clips scored", "", "1", "9"],
        ["duplicate_file", "no file of the same content", "1", "8"],
        ["one_person", "at least 0.975", "2", "6"],
        ["blur", "at most 0.7", "1", "5"],
        ["brightness", "0.1 to 0.9", "", "5"],
        ["near_duplicate", "no kept clip looks like it", "1", "4"],
        ["cut out and kept", "", "", "4"],
    ]


def test_what_embeddings_say_is_shown_where_there_are_any(tmp_path: Path, thresholds: Thresholds) -> None:
    compared = dataclasses.replace(thresholds, semantic_duplicate_cosine=0.98)
    schema = pa.schema([*CLIPS, pa.field("aesthetics", pa.float32())])
    same = clip(1, ["semantic_duplicate: shows what clip 0 shows (cosine 0.991)"])
    rows = [clip(0) | {"aesthetics": 5.5}, same | {"aesthetics": 4.5}]
    output = Folder(str(tmp_path))
    output.write_table("clips/all.parquet", table(rows, schema))
    write_report(output, compared, STAGES)
    text = output.read("report.html").decode()
    page = Page(text)
    cosine = "a cosine below 0.98 between its embedding and that of any kept clip of another video"
    said = [cosine, "1", "1"]
    assert page.row("funnel", "semantic_duplicate")[:3] == said
    assert 'id="score-aesthetics"' in text and "shows what clip 0 shows (cosine 0.991)" in page.said(
        "rejected"
    )


def test_clips_that_could_not_be_cut_out_leave_the_funnel_last(
    tmp_path: Path, thresholds: Thresholds
) -> None:
    gone = clip(1) | {
        "status": FAILED,
        "error_stage": "media",
        "error_type": "VideoError",
        "error_message": "gone",
    }
    page = Page(report(tmp_path, thresholds, [clip(0), gone]))
    assert page.row("funnel", "brightness")[1:3] == ["", "2"]
    assert page.row("funnel", "cut out and kept")[1:3] == ["1", "1"]


def test_a_failed_file_that_is_there_twice_is_not_counted_as_scored(
    tmp_path: Path, thresholds: Thresholds
) -> None:
    copy = failed(2, "score", "died", start=0.0, stop=5.0)
    copy |= {"status": REJECTED, "reasons": ["duplicate_file: same content as x.mp4"]}
    page = Page(report(tmp_path, thresholds, [clip(0), copy]))
    assert page.row("funnel", "clips scored")[1:3] == ["1", "1"]
    assert page.row("funnel", "duplicate_file")[1:3] == ["", "1"]
    assert page.row("funnel", "cut out and kept")[1:3] == ["", "1"]


def test_sheets_show_the_clips_with_captions_and_reasons(tmp_path: Path, thresholds: Thresholds) -> None:
    page = Page(report(tmp_path, thresholds, mixed_rows()))
    assert "All 4:" in page.said("kept") and "All 5," in page.said("rejected")
    assert "A person, number 1. 21.5 s, 0:10.0\N{EN DASH}0:31.5 film 1.mp4" in page.said("kept")
    assert "one_person: 0.9 is below 0.975 blur: 0.8 is above 0.7 A person, number 5." in page.said(
        "rejected"
    )
    assert [image["alt"] for image in page.attributes("img")][:2] == [
        "A person, number 0.",
        "A person, number 1.",
    ]
    assert page.said("rejected").index("duplicate_file") < page.said("rejected").index("one_person")


def test_the_skeleton_of_the_previews_own_frame_is_drawn_where_the_person_is(
    tmp_path: Path, thresholds: Thresholds
) -> None:
    page = Page(report(tmp_path, thresholds, [clip(0)]))
    (uri,) = [image["src"] or "" for image in page.attributes("img")]
    encoded = np.frombuffer(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")), np.uint8)
    picture = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB), int)
    assert picture.shape == (240, 320, 3)
    forearm = np.array(BODY_LINKS[3, 4])
    assert np.abs(picture[120, 150] - forearm).max() < 40
    assert np.abs(picture[100] - 128).max() < 4
    assert np.abs(picture[120, 270:] - 128).max() < 4


def test_a_second_person_has_a_box() -> None:
    grey = np.full((240, 320, 3), 128, np.uint8)
    boxed = with_box(grey, np.array([0.5, 0.25, 1.0, 0.75]))
    rows, columns = np.nonzero((boxed != grey).any(axis=2))
    assert (grey == 128).all() and boxed[60, 200].tolist() == list(SECOND_PERSON)
    assert (rows.min(), rows.max()) == pytest.approx((60, 179), abs=2)
    assert (columns.min(), columns.max()) == pytest.approx((160, 319), abs=2)


def test_a_frame_without_the_person_has_no_skeleton() -> None:
    frame = np.full((240, 135, 3), 77, np.uint8)
    assert np.array_equal(with_skeleton(frame, standing()[0], (1080, 1920)), frame)


def test_rows_without_a_picture_say_so(tmp_path: Path, thresholds: Thresholds) -> None:
    rows = [
        clip(0, ["blur: not measured"], preview=None),
        clip(1, ["blur: not measured"], preview=b"no jpeg"),
    ]
    rows.append(clip(2, ["one_person: not measured"], keypoints=None, keypoints_shape=None, caption=None))
    page = Page(report(tmp_path, thresholds, rows))
    assert page.said("rejected").count("no picture blur: not measured") == 2
    assert [image["alt"] for image in page.attributes("img")] == ["Middle frame of film 2.mp4"]


def test_failures_are_listed_and_beyond_200_counted(tmp_path: Path, thresholds: Thresholds) -> None:
    rows = [failed(number, "probe", f"message {number}") for number in range(230)]
    page = Page(report(tmp_path, thresholds, rows, part=100))
    assert len(page.rows["failed"]) == 1 + 200
    assert "The first 200 of 230" in page.said("failed")
    page = Page(report(tmp_path / "mixed", thresholds, mixed_rows()))
    assert page.row("failed", "film 0.mp4") == [
        "1:01.5\N{EN DASH}1:05.0",
        "score",
        "VideoError",
        "its worker died",
    ]


def test_scores_count_kept_rejected_and_missing(thresholds: Thresholds) -> None:
    rows = [row for row in mixed_rows() if row["status"] != FAILED]
    plots = {plot.name: plot for plot in histograms(table(rows, CLIPS), thresholds, {"blur": (2, 1)})}
    blur = plots["blur"]
    assert (blur.values, blur.missing, blur.rejects, blur.rejects_alone) == (8, 1, 2, 1)
    counts = [re.findall(r"(\d+) (?:kept|rejected)", bar.says) for bar in blur.bars]
    assert np.array(counts, int).sum(0).tolist() == [3, 5]
    assert [label for _, label in blur.lines] == ["0.7"]
    assert plots["unsafe"].bars == [] and plots["unsafe"].bounds == "no rule"


def test_scores_section_says_what_a_rule_rejects(tmp_path: Path, thresholds: Thresholds) -> None:
    page = Page(report(tmp_path, thresholds, mixed_rows()))
    assert "at least 0.975: rejects 2, 1 of them alone" in page.said("scores")
    assert "at most 0.7: rejects 2, 1 of them alone · 1 without a value" in page.said("scores")
    labels = [svg["aria-label"] for svg in page.attributes("svg")]
    assert "Histogram of brightness, 9 clips, 0.1 to 0.9" in labels


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([], []),
        ([], [0.0]),
        ([0.0], []),
        ([5.0] * 9, []),
        ([-3.0], []),
        ([0.5, 0.50000006], []),
        ([0.0, 1e-30], []),
        ([0.1, 0.2], [81.0]),
        ([1e-9, 3e5], [0.5, 2.0]),
        ([-2e30, -2e30], [0.06]),
    ],
)
def test_bins_are_even_round_and_cover_values_and_limits(values: list[float], limits: list[float]) -> None:
    edges = bin_edges(np.array(values), limits)
    assert 2 <= len(edges) <= MOST_BINS + 3
    assert np.allclose(np.diff(edges), edges[1] - edges[0], atol=0) and edges[1] > edges[0]
    assert all(edges[0] <= limit <= edges[-1] for limit in limits)
    labels = [f"{edge:g}" for edge in edges]
    assert len(set(labels)) == len(labels)


def test_outliers_and_infinity_are_counted_in_the_outermost_bars(thresholds: Thresholds) -> None:
    speeds = [1.0] * 500 + [900.0, np.inf, -np.inf, np.nan]
    rows = [clip(number, subject_motion=speed) for number, speed in enumerate(speeds)]
    plots = {plot.name: plot for plot in histograms(table(rows, CLIPS), thresholds, {})}
    motion = plots["subject_motion"]
    assert motion.values == 503 and motion.missing == 1
    assert re.fullmatch(r"1 below \S+ and 2 above \S+", motion.beyond)
    assert sum(int(re.findall(r"(\d+) kept", bar.says)[0]) for bar in motion.bars) == 503


def test_composition_is_of_what_was_kept_in_hours(tmp_path: Path, thresholds: Thresholds) -> None:
    page = Page(report(tmp_path, thresholds, mixed_rows()))
    assert page.row("composition", "close-up") == ["1", "0.006", "54.4 %"]
    assert page.row("composition", "half-body") == ["2", "0.003", "30.4 %"]
    assert page.row("composition", "not measured") == ["1", "0.002", "15.2 %"]
    assert page.row("composition", "5 to 10 s") == ["3", "0.005", "45.6 %"]
    assert page.row("composition", "from 20 s") == ["1", "0.006", "54.4 %"]
    assert page.row("composition", "30") == ["4", "0.011", "100.0 %"]
    assert page.row("composition", "woman")[0] == "1"


def test_throughput_has_stages_and_cpu_seconds_of_each_clip_once(
    tmp_path: Path, thresholds: Thresholds
) -> None:
    page = Page(report(tmp_path, thresholds, mixed_rows()))
    assert page.row("throughput", "score") == ["10 min", "1,200", "clips", "2.00"]
    assert page.row("throughput", "decoding") == ["8.0", "25.0 %"]
    assert page.row("throughput", "models") == ["20.0", "62.5 %"]
    assert page.row("throughput", "everything else") == ["4.0", "12.5 %"]
    assert page.row("throughput", "pose") == ["16.0", "50.0 %"]


@pytest.mark.parametrize(
    "rows",
    [[], [failed(0, "probe", "broken")], [clip(0)], [clip(0, ["blur: not measured"], blur=None)]],
    ids=["empty", "all failed", "one kept", "one rejected"],
)
def test_small_datasets_render(tmp_path: Path, thresholds: Thresholds, rows: list[dict[str, Any]]) -> None:
    page = Page(report(tmp_path, thresholds, rows))
    assert list(page.text)[1:] == [
        "funnel",
        "kept",
        "rejected",
        "failed",
        "scores",
        "composition",
        "throughput",
    ]
    assert "nan" not in " ".join(page.text.values()).lower().split()


def test_text_from_data_is_escaped(tmp_path: Path, thresholds: Thresholds) -> None:
    evil = "<script>alert('x')</script>\"><img src=x onerror=y>&amp;.mp4"
    rows = [
        clip(0, path=evil, caption=evil, framing=evil),
        clip(1, [f"duplicate_file: same content as {evil}"]),
        failed(2, evil, evil, path=evil, error_type=evil),
    ]
    html = report(tmp_path, thresholds, rows)
    page = Page(html)
    assert not page.attributes("script") and "<script" not in html
    assert all("onerror" not in image for image in page.attributes("img"))
    assert page.attributes("img")[0]["alt"] == evil
    for section in ("kept", "rejected", "failed", "composition"):
        assert evil in page.said(section)


def test_the_file_is_whole_in_itself(tmp_path: Path, thresholds: Thresholds) -> None:
    html = report(tmp_path, thresholds, mixed_rows())
    page = Page(html)
    assert not re.search(r"https?://|url\(|@import", html)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        target = attributes.get("src") or attributes.get("href")
        assert target is None or target.startswith(("data:image/jpeg;base64,", "#"))
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert all((link["href"] or "").removeprefix("#") in targets for link in page.attributes("a"))


def test_pictures_have_texts_and_tables_have_headings(tmp_path: Path, thresholds: Thresholds) -> None:
    page = Page(report(tmp_path, thresholds, mixed_rows()))
    assert all(image["alt"] for image in page.attributes("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.attributes("svg"))
    assert all(heading["scope"] in ("col", "row") for heading in page.attributes("th"))
    assert len(page.attributes("thead")) == len(page.attributes("table"))
    assert page.attributes("html")[0]["lang"] == "en"


def test_the_same_table_gives_the_same_bytes_however_it_is_cut_up(
    tmp_path: Path, thresholds: Thresholds
) -> None:
    first = report(tmp_path / "a", thresholds, mixed_rows(), part=5)
    assert report(tmp_path / "b", thresholds, mixed_rows(), part=5) == first
    assert report(tmp_path / "c", thresholds, mixed_rows(), part=7) == first


def test_large_sheets_are_samples(tmp_path: Path, thresholds: Thresholds) -> None:
    picture = preview(60)
    rows = [clip(number, preview=picture) for number in range(150)]
    rows += [clip(number, ["blur: 1 is above 0.7"], preview=picture) for number in range(150, 250)]
    rows.append(clip(250, ["one_person: 0 is below 0.975"], preview=picture))
    page = Page(report(tmp_path, thresholds, rows, part=64))
    assert len(page.attributes("img")) == 2 * PICTURES
    assert "A person, number 0." in page.said("kept") and "A person, number 149." in page.said("kept")
    assert "48 of 150, evenly spread" in page.said("kept") and "48 of 101, some" in page.said("rejected")
    assert "one_person: 0 is below 0.975" in page.said("rejected")


def test_samples_are_spread() -> None:
    assert spread(np.arange(10, 20), 4).tolist() == [10, 13, 16, 19]
    assert spread(np.arange(3), 4).tolist() == [0, 1, 2]
    groups = [np.arange(100), np.array([200, 201]), np.array([], int), np.arange(300, 400)]
    assert spread_over_groups(groups, 8).tolist() == [0, 50, 99, 200, 201, 300, 350, 399]
    assert spread_over_groups([], 8).tolist() == []


def test_moments_are_minutes_and_seconds() -> None:
    assert [clock(seconds) for seconds in (0, 59.97, 61.5, 3600)] == ["0:00.0", "1:00.0", "1:01.5", "60:00.0"]


def test_light_columns_alone_are_read_for_clips_that_are_not_shown(
    tmp_path: Path, thresholds: Thresholds, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[str] | None] = []
    whole = Folder.read_table

    def noted(folder: Folder, name: str, columns: list[str] | None = None) -> pa.Table:
        read.append(columns)
        return whole(folder, name, columns)

    monkeypatch.setattr(Folder, "read_table", noted)
    report(tmp_path, thresholds, mixed_rows())
    assert read and all(columns and not {"keypoints", "preview"} & set(columns) for columns in read)
